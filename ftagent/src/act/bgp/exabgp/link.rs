//! The two pipes.

use std::{
    fs::File,
    io::{ErrorKind, Read as _, Write as _},
    os::{
        fd::{AsFd as _, BorrowedFd},
        unix::fs::{FileTypeExt as _, OpenOptionsExt as _},
    },
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use nix::{
    libc::O_NONBLOCK,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};

/// What an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// For so long nothing more comes of answers to somebody else.
const QUIET: Duration = Duration::from_millis(200);
/// How often the watch looks whether it is still needed.
const WATCH: Duration = Duration::from_millis(200);
/// The longest line of an answer, bytes.
const MOST_BYTES: usize = 1 << 20;
/// The longest answer: others may announce through the same daemon.
const MOST_LINES: usize = 200_000;

/// The pipes, and whether who read them is still the same.
pub struct Link {
    pipes: PathBuf,
    session: Option<Session>,
    /// Sessions so far.
    life: u64,
}

struct Session {
    commands: File,
    ended: Arc<AtomicBool>,
    /// Answers to what was asked before may still come.
    astray: bool,
}

impl Drop for Session {
    fn drop(&mut self) {
        // The watch sees it and ends.
        self.ended.store(true, Ordering::Relaxed);
    }
}

impl Link {
    pub const fn new(pipes: PathBuf) -> Self {
        Self { pipes, session: None, life: 0 }
    }

    /// Returns which life of ExaBGP is spoken to; it changes whenever it may have restarted.
    pub const fn life(&self) -> u64 {
        self.life
    }

    /// Takes what was answered for another's: somebody else uses the pipes. The next command waits until nothing more
    /// comes of it. Returns what to say.
    pub fn astray(&mut self, command: &str, line: Option<&str>) -> String {
        self.doubt();
        let what = line
            .map_or_else(|| "nothing".to_owned(), |line| format!("`{}`", line.chars().take(60).collect::<String>()));
        format!(
            "exabgp's answer to `{command}` is none ({what}): does another program use the pipes in {}? Give ftagent \
             pipes of its own",
            self.pipes.display()
        )
    }

    /// Has the next command wait until nothing more comes of answers to others.
    pub fn doubt(&mut self) {
        if let Some(session) = &mut self.session {
            session.astray = true;
        }
    }

    /// Gives a command; returns the lines of its answer.
    ///
    /// # Errors
    /// Why there is none, and the remedy.
    pub fn ask(&mut self, command: &str) -> Result<Vec<String>, String> {
        if self.session.as_ref().is_none_or(|session| session.ended.load(Ordering::Relaxed)) {
            self.session = None;
            self.session = Some(open(&self.pipes)?);
            self.life += 1;
        }
        let Some(session) = &mut self.session else { return Err(away(&self.pipes, "there is no session")) };
        let answer = session.ask(&self.pipes, command);
        // Whatever went wrong, the rest of an answer may come yet.
        session.astray |= answer.is_err();
        match answer? {
            Answer::Done(lines) => Ok(lines),
            Answer::Refused => {
                let what = command.split(" {").next().unwrap_or(command);
                Err(format!(
                    "exabgp refuses `{what}`: its log says why; are there neighbours that take part in its API?"
                ))
            }
        }
    }
}

enum Answer {
    Done(Vec<String>),
    Refused,
}

fn away(pipes: &Path, why: &str) -> String {
    format!("exabgp does not answer at {} ({why}): is it running, with its command line enabled?", pipes.display())
}

fn open(pipes: &Path) -> Result<Session, String> {
    let commands = pipe(pipes, "exabgp.in", |options| options.write(true))?;
    let ended = Arc::new(AtomicBool::new(false));
    let watched = commands.try_clone().map_err(|error| format!("watching exabgp.in: {error}"))?;
    let tell = Arc::clone(&ended);
    let watch = move || {
        while !tell.load(Ordering::Relaxed) {
            // A pipe that nobody reads any more is in error, for as long as nobody does: a restart takes longer
            // than waking up.
            if ready(watched.as_fd(), PollFlags::empty(), WATCH) {
                tell.store(true, Ordering::Relaxed);
            }
        }
    };
    let watch = thread::Builder::new().name("exabgp-watch".to_owned()).spawn(watch);
    watch.map_err(|error| format!("watching exabgp.in: {error}"))?;
    Ok(Session { commands, ended, astray: true })
}

fn pipe(
    pipes: &Path,
    name: &str,
    mode: impl Fn(&mut std::fs::OpenOptions) -> &mut std::fs::OpenOptions,
) -> Result<File, String> {
    let path = pipes.join(name);
    let opened = mode(&mut File::options()).custom_flags(O_NONBLOCK).open(&path);
    let file = opened.map_err(|error| match error.kind() {
        ErrorKind::NotFound => {
            away(pipes, &format!("there is no {name}: make both pipes with mkfifo before it starts"))
        }
        ErrorKind::PermissionDenied => away(pipes, &format!("{name} may not be opened by this agent")),
        // ENXIO: nobody has the other end.
        _ if error.raw_os_error() == Some(nix::libc::ENXIO) => away(pipes, &format!("nobody reads {name}")),
        _ => away(pipes, &format!("{name}: {error}")),
    })?;
    let fifo = file.metadata().is_ok_and(|metadata| metadata.file_type().is_fifo());
    if fifo { Ok(file) } else { Err(away(pipes, &format!("{name} is no pipe"))) }
}

/// Waits until a file is ready or in error.
fn ready(file: BorrowedFd<'_>, flags: PollFlags, patience: Duration) -> bool {
    let timeout = PollTimeout::try_from(patience).unwrap_or(PollTimeout::ZERO);
    poll(&mut [PollFd::new(file, flags)], timeout).is_ok_and(|count| count > 0)
}

impl Session {
    fn ask(&mut self, pipes: &Path, command: &str) -> Result<Answer, String> {
        let answers = pipe(pipes, "exabgp.out", |options| options.read(true))?;
        let mut answers = Answers { file: answers, bytes: Vec::new(), ended: Arc::clone(&self.ended) };
        if self.astray {
            self.settle(pipes, &mut answers)?;
        }
        answers.drain();
        self.give(pipes, command)?;
        let until = Instant::now() + PATIENCE;
        let mut lines = Vec::new();
        loop {
            let line = match answers.line(until) {
                Ok(Some(line)) => line,
                Ok(None) => return Err(away(pipes, "no answer within 5 s")),
                Err(error) => return Err(away(pipes, &format!("exabgp.out: {error}"))),
            };
            match line.as_str() {
                "done" => return Ok(Answer::Done(lines)),
                "error" => return Ok(Answer::Refused),
                "shutdown" => return Err(away(pipes, "it shuts down")),
                _ if lines.len() >= MOST_LINES => return Err(away(pipes, "its answer has no end")),
                _ => lines.push(line),
            }
        }
    }

    /// Reads away what was answered to somebody else, or too late: up to an answer that can only be to this, and
    /// until nothing more comes.
    fn settle(&mut self, pipes: &Path, answers: &mut Answers) -> Result<(), String> {
        self.give(pipes, "version")?;
        let until = Instant::now() + PATIENCE;
        let (mut known, mut wait) = (false, until);
        loop {
            match answers.line(wait).map_err(|error| away(pipes, &format!("exabgp.out: {error}")))? {
                Some(line) if line.starts_with("exabgp ") => known = true,
                Some(line) if known && line == "done" => wait = Instant::now() + QUIET,
                Some(_) => {}
                None if known => break,
                None => return Err(away(pipes, "no answer within 5 s")),
            }
            if Instant::now() > until {
                return Err(away(pipes, "somebody else asks it without end"));
            }
        }
        self.astray = false;
        Ok(())
    }

    #[allow(clippy::disallowed_methods, reason = "what a full pipe does not take is waited for")]
    fn give(&mut self, pipes: &Path, command: &str) -> Result<(), String> {
        let until = Instant::now() + PATIENCE;
        let line = format!("{command}\n");
        let mut left = line.as_bytes();
        while !left.is_empty() {
            match self.commands.write(left) {
                Ok(count) => left = left.get(count..).unwrap_or_default(),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock && Instant::now() < until => {
                    ready(self.commands.as_fd(), PollFlags::POLLOUT, Duration::from_millis(100));
                }
                Err(error) => {
                    self.ended.store(true, Ordering::Relaxed);
                    return Err(away(pipes, &format!("exabgp.in: {error}")));
                }
            }
        }
        Ok(())
    }
}

/// The end that answers come out of.
struct Answers {
    file: File,
    bytes: Vec<u8>,
    /// Who would answer is gone.
    ended: Arc<AtomicBool>,
}

impl Answers {
    /// Takes what is there; `false`: nothing, for now.
    fn read(&mut self) -> std::io::Result<bool> {
        let mut chunk = [0; 8192];
        match self.file.read(&mut chunk) {
            // Nobody has the other end open, which is so between any two lines.
            Ok(0) => Ok(false),
            Ok(_) if self.bytes.len() > MOST_BYTES => Err(std::io::Error::other("a line has no end")),
            Ok(count) => {
                self.bytes.extend(chunk.iter().take(count));
                Ok(true)
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn drain(&mut self) {
        while self.read().is_ok_and(|more| more) {}
        self.bytes.clear();
    }

    /// Returns the next line; `None` where none comes in time.
    fn line(&mut self, until: Instant) -> std::io::Result<Option<String>> {
        loop {
            if let Some(end) = self.bytes.iter().position(|byte| *byte == b'\n') {
                let rest = self.bytes.split_off(end + 1);
                let line = std::mem::replace(&mut self.bytes, rest);
                return Ok(Some(String::from_utf8_lossy(&line).trim_end().to_owned()));
            }
            if self.read()? {
                continue;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            if self.ended.load(Ordering::Relaxed) {
                return Err(std::io::Error::other("it ended before it answered"));
            }
            // Once a writer closed it, it is always "ready": then time has to pass by itself.
            let since = Instant::now();
            ready(self.file.as_fd(), PollFlags::POLLIN, left.min(Duration::from_millis(50)));
            if since.elapsed() < Duration::from_millis(1) {
                thread::sleep(Duration::from_millis(1));
            }
        }
    }
}
