//! The program `nft`: one call for each change, JSON on both sides, no shell.

use std::{
    fmt,
    io::{self, Read as _, Write as _},
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use thiserror::Error;

/// A call that takes longer is ended: the kernel answers within milliseconds.
const PATIENCE: Duration = Duration::from_secs(10);
/// More than the listing of a full table with long block lists.
const MOST_OUTPUT: u64 = 256 << 20;

/// Why nftables could not be changed or read.
#[derive(Debug, Error)]
pub enum NftError {
    /// There is no such program.
    #[error(
        "`{0}` cannot be started: install nftables (Debian: `apt install nftables`), or use `mitigation.plane = \"xdp\"`"
    )]
    Missing(String, #[source] io::Error),
    /// It refused; nothing was changed.
    #[error("nftables refused: {0}")]
    Refused(String),
    /// It did not answer.
    #[error("`nft` did not answer within {} s and was ended: the kernel may be busy with another's table", .0.as_secs())]
    Stalled(Duration),
    /// It answered with something else than JSON.
    #[error("`nft` answered with something that is not JSON: {0}; nftables 0.9.4 or newer with JSON is needed")]
    Answer(String),
    /// A pipe broke.
    #[error("speaking with `nft`")]
    Io(#[from] io::Error),
}

impl NftError {
    /// Returns whether it says that what was asked about is not there.
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::Refused(what) if what.contains("No such file or directory"))
    }
}

/// What carries out commands of libnftables-json(5): all of a call or none.
pub trait Runner: fmt::Debug + Send {
    /// Carries commands out, and returns what they list.
    ///
    /// # Errors
    /// See [`NftError`].
    fn run(&mut self, commands: Vec<Value>) -> Result<Vec<Value>, NftError>;

    /// As [`Self::run`], for listings that need not say what sets hold.
    ///
    /// # Errors
    /// See [`NftError`].
    fn terse(&mut self, commands: Vec<Value>) -> Result<Vec<Value>, NftError> {
        self.run(commands)
    }
}

/// The program.
#[derive(Clone, Debug)]
pub struct Nft {
    program: PathBuf,
    patience: Duration,
    /// It only looks whether all of it could be done.
    tries: bool,
}

impl Default for Nft {
    /// `nft` as it is found in `PATH`, or where administrators' programs are.
    fn default() -> Self {
        let known = ["/usr/sbin/nft", "/sbin/nft"].map(PathBuf::from).into_iter().find(|path| path.exists());
        Self::at(known.unwrap_or_else(|| PathBuf::from("nft")))
    }
}

impl Nft {
    /// The program at a path.
    pub fn at(program: impl Into<PathBuf>) -> Self {
        Self { program: program.into(), patience: PATIENCE, tries: false }
    }

    /// Ends calls that take longer.
    pub fn with_patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// Changes nothing: has the kernel say whether it would.
    pub fn trying(self) -> Self {
        Self { tries: true, ..self }
    }
}

impl Runner for Nft {
    fn run(&mut self, commands: Vec<Value>) -> Result<Vec<Value>, NftError> {
        self.call(commands, None)
    }

    fn terse(&mut self, commands: Vec<Value>) -> Result<Vec<Value>, NftError> {
        self.call(commands, Some("-t"))
    }
}

impl Nft {
    fn call(&self, commands: Vec<Value>, option: Option<&str>) -> Result<Vec<Value>, NftError> {
        let mut command = Command::new(&self.program);
        command
            .args(self.tries.then_some("-c"))
            .args(option)
            .args(["-j", "-f", "-"])
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("LC_ALL", "C");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child =
            command.spawn().map_err(|error| NftError::Missing(self.program.display().to_string(), error))?;
        let input = serde_json::to_vec(&json!({ "nftables": commands })).map_err(io::Error::from)?;
        // It reads everything before it answers, but says what is wrong at once: nobody waits for another.
        let writer = child.stdin.take().map(|mut stdin| thread::spawn(move || stdin.write_all(&input)));
        let output = child.stdout.take().map(|stdout| thread::spawn(move || read(stdout)));
        let told = child.stderr.take().map(|stderr| thread::spawn(move || read(stderr)));
        let ended = wait(&mut child, self.patience);
        if ended.is_err() {
            // Neither fails but for a process that has ended meanwhile.
            let _killed: io::Result<()> = child.kill();
            let _reaped: io::Result<_> = child.wait();
        }
        // It may have ended before it had read everything.
        let _broken = writer.map(thread::JoinHandle::join);
        let text = |thread: Option<thread::JoinHandle<String>>| {
            thread.and_then(|thread| thread.join().ok()).unwrap_or_default()
        };
        let (output, told) = (text(output), text(told));
        if !ended? {
            return Err(NftError::Refused(first_lines(&told)));
        }
        listed(&output)
    }
}

fn read(from: impl io::Read) -> String {
    let mut bytes = Vec::new();
    // What was read until a pipe broke is the answer.
    let _broken: io::Result<usize> = from.take(MOST_OUTPUT).read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Waits for the end; returns whether it was a good one.
fn wait(child: &mut Child, patience: Duration) -> Result<bool, NftError> {
    let begun = Instant::now();
    let mut pause = Duration::from_micros(500);
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status.success());
        }
        if begun.elapsed() > patience {
            return Err(NftError::Stalled(patience));
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

/// The first complaints are the ones that matter; the rest are marks below the input.
fn first_lines(told: &str) -> String {
    let lines = told.lines().map(str::trim).filter(|line| line.contains("Error") || line.contains("rror:"));
    let lines: Vec<&str> = lines.take(3).collect();
    let all = if lines.is_empty() { told.trim().to_owned() } else { lines.join("; ") };
    match all.is_empty() {
        true => "it gave no reason".to_owned(),
        false => all.chars().take(500).collect(),
    }
}

fn listed(output: &str) -> Result<Vec<Value>, NftError> {
    if output.trim().is_empty() {
        return Ok(Vec::new());
    }
    // Each listing of a call is a document of its own.
    let mut all = Vec::new();
    for document in serde_json::Deserializer::from_str(output).into_iter::<Value>() {
        let mut document = document.map_err(|error| NftError::Answer(error.to_string()))?;
        match document.get_mut("nftables").map(Value::take) {
            Some(Value::Array(objects)) => all.extend(objects),
            _ => return Err(NftError::Answer("there is no list `nftables`".to_owned())),
        }
    }
    Ok(all)
}
