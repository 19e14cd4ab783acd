//! The control socket: root and the group `ftagent` may speak to the daemon.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use nix::unistd::{Group, Uid, User, chown};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{UnixListener, UnixStream},
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::timeout,
};
use tracing::{debug, warn};

use super::protocol::{Answer, REQUEST_BYTES, Request};

/// A caller that says nothing for this long is hung up on.
const PATIENCE: Duration = Duration::from_secs(5);
/// Requests that wait at most; further callers wait for a place.
pub const QUEUE: usize = 16;

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// `name(uid)`, for records.
    pub name: String,
    /// The uid, as the kernel says.
    pub uid: u32,
    /// The login name that belongs to it; `?` where there is none.
    pub login: String,
}

/// A request on its way to the agent.
#[derive(Debug)]
pub struct Call {
    /// What is asked.
    pub request: Request,
    /// Who asks.
    pub caller: Caller,
    /// Where the answer goes.
    pub answer: oneshot::Sender<Answer>,
}

/// The listening socket; its file vanishes with it.
#[derive(Debug)]
pub struct Control {
    listener: UnixListener,
    path: PathBuf,
}

impl Control {
    /// Listens at `path`, for root and, where it exists, the group `ftagent`. A socket that a
    /// dead daemon left is replaced; one that answers is not.
    ///
    /// # Errors
    /// `AddrInUse` where another daemon answers, and what the file system says.
    pub fn bind(path: &Path) -> io::Result<Self> {
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir)?;
        }
        match std::os::unix::net::UnixStream::connect(path) {
            Ok(_) => return Err(io::ErrorKind::AddrInUse.into()),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path)?,
            Err(_) => {}
        }
        let listener = UnixListener::bind(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o660))?;
        if let Ok(Some(group)) = Group::from_name("ftagent") {
            chown(path, None, Some(group.gid))?;
        }
        Ok(Self { listener, path: path.to_owned() })
    }

    /// Accepts callers for ever; every call is given to `calls`, which holds [`QUEUE`].
    pub fn serve(self, calls: mpsc::Sender<Call>) -> JoinHandle<()> {
        tokio::spawn(async move {
            loop {
                match self.listener.accept().await {
                    Ok((stream, _)) => {
                        let calls = calls.clone();
                        tokio::spawn(async move {
                            if let Err(error) = converse(stream, calls).await {
                                debug!(%error, "A caller of the control socket went away.");
                            }
                        });
                    }
                    Err(error) => {
                        warn!(%error, "Accepting a caller on the control socket failed.");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                }
            }
        })
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        let _gone: io::Result<()> = fs::remove_file(&self.path);
    }
}

async fn converse(mut stream: UnixStream, calls: mpsc::Sender<Call>) -> io::Result<()> {
    let uid = stream.peer_cred()?.uid();
    let login = User::from_uid(Uid::from_raw(uid)).ok().flatten().map_or_else(|| "?".to_owned(), |user| user.name);
    let caller = Caller { name: format!("{login}({uid})"), uid, login };
    let mut line = String::new();
    let (read, mut write) = stream.split();
    let mut read = BufReader::new(read.take(REQUEST_BYTES));
    timeout(PATIENCE, read.read_line(&mut line)).await??;
    let answer = match serde_json::from_str::<Request>(&line) {
        Ok(request) => {
            let (sender, answer) = oneshot::channel();
            let call = Call { request, caller, answer: sender };
            let gone = || Answer::Refused { error: "the daemon is stopping".to_owned() };
            match calls.send(call).await {
                Ok(()) => answer.await.unwrap_or_else(|_| gone()),
                Err(_) => gone(),
            }
        }
        Err(error) => Answer::Refused { error: format!("not a request that this version knows: {error}") },
    };
    let mut bytes = serde_json::to_vec(&answer)?;
    bytes.push(b'\n');
    timeout(PATIENCE, write.write_all(&bytes)).await??;
    Ok(())
}
