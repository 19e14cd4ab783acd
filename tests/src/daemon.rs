//! `ftagent run` as a process inside a [`Sandbox`], and what an operator does with it: commands,
//! signals, scrapes.
//!
//! The binary is built from the sources beside this crate, once for each process that asks. A
//! daemon has a folder of its own for configuration, state, socket and log; pins and the metrics
//! port are private to the sandbox already, so every daemon uses the same.

use std::{
    fmt::Write as _,
    fs::{self, File, Permissions},
    io::{Read as _, Write as _},
    net::TcpStream,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Output, Stdio},
    sync::OnceLock,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use ftagent::{
    record::audit,
    serve::protocol::{Interface, Rules, Status},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde::de::DeserializeOwned;
use tempfile::TempDir;

use crate::sandbox::{Process, Sandbox};

/// Where daemons pin, in the sandbox's own BPF file system.
pub const BPFFS: &str = "/sys/fs/bpf/ftagent";
/// Where daemons serve metrics, on the sandbox's own loopback.
pub const METRICS: &str = "127.0.0.1:9464";

/// How long to wait for what takes a fraction of a second on an idle machine.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// The exit status of a daemon that `ftagent detach` ended.
pub const DETACHED: i32 = 10;
/// Time between two looks while waiting.
const PAUSE: Duration = Duration::from_millis(10);

/// Returns the path of `ftagent`, built with the profile of the calling binary: release where
/// that has no debug assertions.
///
/// # Errors
/// Where it does not build; cargo's messages went to standard error.
pub fn binary() -> Result<PathBuf> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    BUILT.get_or_init(|| build().map_err(|error| format!("{error:#}"))).clone().map_err(anyhow::Error::msg)
}

fn build() -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."));
    command.args(["build", "--quiet", "--locked", "--package=ftagent", "--bin=ftagent"]);
    command.arg("--message-format=json-render-diagnostics").stderr(Stdio::inherit());
    if !cfg!(debug_assertions) {
        command.arg("--release");
    }
    if std::env::var_os("CARGO_TARGET_DIR").is_none() {
        command.arg("--target-dir").arg(target_dir()?);
    }
    let output = match command.output() {
        // Under sudo there may be no cargo; `cargo xtask demo` has built it beside the caller.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let beside = std::env::current_exe()?.with_file_name("ftagent");
            ensure!(beside.exists(), "there is no cargo to build ftagent with, and no {}", beside.display());
            return Ok(beside);
        }
        output => output.context("starting cargo")?,
    };
    ensure!(output.status.success(), "building ftagent: cargo ended with {}", output.status);
    let messages = String::from_utf8(output.stdout).context("cargo's messages")?;
    let mut messages = messages.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let path = messages.find_map(|message| Some(PathBuf::from(message["executable"].as_str()?)));
    path.context("cargo named no executable for ftagent")
}

/// Returns the target directory that the calling binary lies in: `<target>/<profile>[/deps]/binary`.
fn target_dir() -> Result<PathBuf> {
    let own = std::env::current_exe().context("finding the calling binary")?;
    let dir = own.parent().filter(|dir| !dir.ends_with("deps")).or(own.ancestors().nth(2));
    Ok(dir.and_then(Path::parent).context("the calling binary lies in no target directory")?.to_owned())
}

/// Asks again and again until there is an answer.
///
/// # Errors
/// Where there is none in time; `what` says what was waited for.
pub fn wait_for<T>(what: &str, patience: Duration, mut ask: impl FnMut() -> Option<T>) -> Result<T> {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return Ok(answer);
        }
        ensure!(start.elapsed() < patience, "{what}: not within {} s", patience.as_secs());
        thread::sleep(PAUSE);
    }
}

/// Writes a secret for its owner alone.
///
/// # Errors
/// What the file system says.
pub fn secret(path: &Path, text: &str) -> Result<()> {
    let written = fs::write(path, text).and_then(|()| fs::set_permissions(path, Permissions::from_mode(0o600)));
    written.with_context(|| format!("writing the secret {}", path.display()))
}

/// A daemon, running or not, and its folder. The process is killed and the folder removed when
/// this is dropped; pins go with the sandbox.
#[derive(Debug)]
pub struct Daemon {
    dir: TempDir,
    names: Vec<String>,
    process: Option<Process>,
}

impl Drop for Daemon {
    /// Files of the audit log can only grow, and could not be removed with the folder.
    fn drop(&mut self) {
        self.process = None;
        let mut dirs = vec![audit::dir(&self.path("state"))];
        while let Some(dir) = dirs.pop() {
            for path in fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()) {
                if path.is_dir() {
                    dirs.push(path);
                } else if let Err(error) = audit::release(&path) {
                    eprintln!("{} cannot be removed: {error}", path.display());
                }
            }
        }
    }
}

impl Daemon {
    /// Writes a configuration that protects some interfaces; nothing is started. `more` are
    /// further sections in TOML, other than `interfaces`, `paths` and `metrics`.
    ///
    /// # Errors
    /// What the file system says.
    pub fn new(interfaces: &[&str], more: &str) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("ftagent-").tempdir().context("making a folder")?;
        let names = interfaces.iter().map(|&name| name.to_owned()).collect();
        let daemon = Self { dir, names, process: None };
        daemon.configure(more)?;
        Ok(daemon)
    }

    /// As [`Daemon::new`], then [`Daemon::launch`].
    ///
    /// # Errors
    /// As these.
    pub fn start(sandbox: &Sandbox, interfaces: &[&str], more: &str) -> Result<Self> {
        let mut daemon = Self::new(interfaces, more)?;
        daemon.launch(sandbox)?;
        Ok(daemon)
    }

    /// Writes the configuration anew, for other interfaces and with other further sections.
    ///
    /// # Errors
    /// What the file system says.
    pub fn protect(&mut self, interfaces: &[&str], more: &str) -> Result<()> {
        self.names = interfaces.iter().map(|&name| name.to_owned()).collect();
        self.configure(more)
    }

    /// Writes the configuration anew, with other further sections.
    ///
    /// # Errors
    /// What the file system says.
    pub fn configure(&self, more: &str) -> Result<()> {
        let mut text = format!("[interfaces]\nnames = {:?}\n", self.names);
        let (state, socket) = (self.path("state"), self.path("control.sock"));
        writeln!(text, "[paths]\nbpffs = {BPFFS:?}\nstate = {state:?}\nsocket = {socket:?}")?;
        writeln!(text, "[metrics]\nlisten = {METRICS:?}\n{more}")?;
        fs::write(self.path("ftagent.toml"), text).context("writing the configuration")
    }

    /// Returns a path in the daemon's folder: of `ftagent.toml`, `log`, `state`, `control.sock`,
    /// or of a file for the caller's own use, such as a block list.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Starts `ftagent run` and waits until `ftagent status` is answered.
    ///
    /// # Errors
    /// Where it ends or does not answer within [`PATIENCE`]; its log is in the error.
    pub fn launch(&mut self, sandbox: &Sandbox) -> Result<()> {
        let pid = self.spawn(sandbox, &[])?;
        let start = Instant::now();
        loop {
            // An earlier daemon's answer is none.
            if self.try_status().is_ok_and(|status| status.pid == pid) {
                return Ok(());
            }
            let ended = self.try_wait()?;
            if ended.is_some() || start.elapsed() > PATIENCE {
                let how = ended.map_or("does not answer".to_owned(), |status| format!("ended with {status}"));
                bail!("the daemon {how}; its log:\n{}", self.log());
            }
            thread::sleep(PAUSE);
        }
    }

    /// Starts `ftagent run` and does not wait: for those who want to disturb the start.
    ///
    /// # Errors
    /// Where it cannot be started.
    pub fn begin(&mut self, sandbox: &Sandbox) -> Result<()> {
        self.spawn(sandbox, &[]).map(drop)
    }

    /// Starts `ftagent run`, which is expected to refuse, behind `wrapper` (a command that runs
    /// another, such as `setpriv …`), and returns what it said.
    ///
    /// # Errors
    /// Where it does not end within [`PATIENCE`], or ends well.
    pub fn refuses(&mut self, sandbox: &Sandbox, wrapper: &[&str]) -> Result<String> {
        let before = self.log().len();
        self.spawn(sandbox, wrapper)?;
        let status = wait_for("the daemon's end", PATIENCE, || self.try_wait().transpose()).flatten();
        self.process = None;
        let log = self.log().split_off(before);
        let status = status.with_context(|| format!("its log:\n{log}"))?;
        ensure!(status.code().is_some_and(|code| code != 0), "it ended with {status}; its log:\n{log}");
        Ok(log)
    }

    fn spawn(&mut self, sandbox: &Sandbox, wrapper: &[&str]) -> Result<u32> {
        let binary = binary()?;
        let mut command = match wrapper {
            [] => Command::new(binary),
            [program, args @ ..] => {
                let mut command = Command::new(program);
                command.args(args).arg(binary);
                command
            }
        };
        let log = File::options().create(true).append(true).open(self.path("log")).context("opening the log")?;
        command.arg("--config").arg(self.path("ftagent.toml")).arg("run");
        command.env_remove("FTAGENT_LOG").env_remove("NOTIFY_SOCKET");
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let process = self.process.insert(sandbox.spawn(command)?);
        Ok(process.id())
    }

    fn try_wait(&mut self) -> Result<Option<ExitStatus>> {
        let process = self.process.as_mut().context("no daemon was started")?;
        process.try_wait().context("waiting for the daemon")
    }

    /// Returns what all daemons of this folder have written so far.
    pub fn log(&self) -> String {
        let bytes = fs::read(self.path("log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Waits for a text in the log that was written after the first `from` bytes.
    ///
    /// # Errors
    /// Where it does not come within [`PATIENCE`]; the log is in the error.
    pub fn wait_for_log(&self, from: usize, text: &str) -> Result<String> {
        let found = || Some(self.log().split_off(from)).filter(|log| log.contains(text));
        wait_for(&format!("`{text}` in the log"), PATIENCE, found).with_context(|| self.log())
    }

    /// Returns the process id.
    ///
    /// # Errors
    /// Where none was started.
    pub fn pid(&self) -> Result<Pid> {
        let process = self.process.as_ref().context("no daemon was started")?;
        Ok(Pid::from_raw(process.id().try_into()?))
    }

    /// Prepares an `ftagent` command of an operator. It has to run on the sandbox's thread.
    ///
    /// # Errors
    /// See [`binary`].
    pub fn command(&self, args: &[&str]) -> Result<Command> {
        let mut command = Command::new(binary()?);
        command.arg("--config").arg(self.path("ftagent.toml")).args(args).stdin(Stdio::null());
        // Whoever runs the tests by SSH must not get other answers.
        command.env_remove("SSH_CONNECTION").env_remove("SSH_CLIENT");
        Ok(command)
    }

    /// Runs an `ftagent` command of an operator.
    ///
    /// # Errors
    /// Where it cannot be started; that it failed is in the result.
    pub fn cli(&self, args: &[&str]) -> Result<Output> {
        self.command(args)?.output().with_context(|| format!("running ftagent {}", args.join(" ")))
    }

    /// Runs an `ftagent` command that is expected to succeed, and returns what it printed.
    ///
    /// # Errors
    /// Where it fails, with what it said.
    pub fn ok(&self, args: &[&str]) -> Result<String> {
        let output = self.cli(args)?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "ftagent {}: {}: {}", args.join(" "), output.status, said.trim());
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs an `ftagent` command that is expected to be refused, and returns what it said.
    ///
    /// # Errors
    /// Where it succeeds.
    pub fn refused(&self, args: &[&str]) -> Result<String> {
        let output = self.cli(args)?;
        ensure!(!output.status.success(), "ftagent {}: it was not refused", args.join(" "));
        Ok(String::from_utf8_lossy(&output.stderr).into_owned())
    }

    fn json<T: DeserializeOwned>(&self, args: &[&str]) -> Result<T> {
        let text = self.ok(args)?;
        serde_json::from_str(&text).with_context(|| format!("ftagent {} printed {text}", args.join(" ")))
    }

    fn try_status(&self) -> Result<Status> {
        self.json(&["status", "--json"])
    }

    /// Returns what `ftagent status` shows.
    ///
    /// # Errors
    /// Where no daemon answers; the log is in the error.
    pub fn status(&self) -> Result<Status> {
        self.try_status().with_context(|| self.log())
    }

    /// Returns what `ftagent status` shows of one interface.
    ///
    /// # Errors
    /// As [`Daemon::status`], and where it shows no such interface.
    pub fn interface(&self, name: &str) -> Result<Interface> {
        let mut interfaces = self.status()?.interfaces.into_iter();
        interfaces.find(|interface| interface.name == name).with_context(|| format!("the status shows no {name}"))
    }

    /// Waits until an interface is as wanted, and returns it.
    ///
    /// # Errors
    /// Where it is not within `patience`; how it was last is in the error.
    pub fn wait_for_interface(
        &self,
        name: &str,
        patience: Duration,
        wanted: impl Fn(&Interface) -> bool,
    ) -> Result<Interface> {
        let mut last = None;
        let look = || {
            let interface = self.interface(name);
            match interface {
                Ok(interface) if wanted(&interface) => Some(interface),
                other => {
                    last = Some(other);
                    None
                }
            }
        };
        let found = wait_for("the wanted state", patience, look);
        found.map_err(|error| anyhow!("{error:#}; last was {last:#?}; the log:\n{}", self.log()))
    }

    /// Returns what `ftagent rules` shows.
    ///
    /// # Errors
    /// Where no daemon answers.
    pub fn rules(&self) -> Result<Rules> {
        self.json(&["rules", "--json"])
    }

    /// Gets a path from the metrics server: HTTP status and body.
    ///
    /// # Errors
    /// Where it does not answer, or not in HTTP.
    pub fn http(&self, path: &str) -> Result<(u16, String)> {
        let mut stream = TcpStream::connect(METRICS).context("connecting to the metrics server")?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {METRICS}\r\nConnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        let (head, body) = text.split_once("\r\n\r\n").context("the answer has no body")?;
        let code = head.split_whitespace().nth(1).and_then(|code| code.parse().ok()).context("no status")?;
        Ok((code, body.to_owned()))
    }

    /// Scrapes `/metrics`.
    ///
    /// # Errors
    /// Where it is not answered with 200.
    pub fn metrics(&self) -> Result<String> {
        match self.http("/metrics")? {
            (200, body) => Ok(body),
            (code, body) => bail!("/metrics: {code}: {body}"),
        }
    }

    /// Sends the daemon a signal.
    ///
    /// # Errors
    /// Where there is none.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill(self.pid()?, signal).with_context(|| format!("sending {signal}"))
    }

    /// Stops the daemon as a service manager does, by SIGTERM: link and pins stay.
    ///
    /// # Errors
    /// Where it does not end with 0 within [`PATIENCE`].
    pub fn terminate(&mut self) -> Result<()> {
        self.signal(Signal::SIGTERM)?;
        let code = self.wait_for_end()?;
        ensure!(code == 0, "the daemon ended with {code}; its log:\n{}", self.log());
        Ok(())
    }

    /// Waits until the daemon has ended well, and returns its exit status: 0, or [`DETACHED`] after `ftagent detach`.
    ///
    /// # Errors
    /// Where it does not within [`PATIENCE`]; the log is in the error.
    pub fn wait_for_end(&mut self) -> Result<i32> {
        let status = wait_for("the daemon's end", PATIENCE, || self.try_wait().transpose()).flatten();
        let status = status.with_context(|| self.log())?;
        self.process = None;
        let code = status.code().filter(|code| [0, DETACHED].contains(code));
        code.with_context(|| format!("the daemon ended with {status}; its log:\n{}", self.log()))
    }

    /// Kills the daemon by SIGKILL: it can do nothing about it.
    ///
    /// # Errors
    /// Where none was started.
    pub fn kill(&mut self) -> Result<()> {
        drop(self.process.take().context("no daemon was started")?);
        Ok(())
    }
}
