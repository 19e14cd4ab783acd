//! The control socket's place in the daemon: where its directory cannot be written, the daemon protects without it, and
//! tries again.

use std::{
    io,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, anyhow, bail};
use tokio::{sync::mpsc, task::JoinHandle};
use tracing::{error, info};

use crate::{
    record::is_of_disk,
    serve::control::{Call, Control, QUEUE},
};

/// What accepts callers, once it does.
pub(super) struct Surface {
    path: PathBuf,
    /// Callers arrive here.
    calls: mpsc::Sender<Call>,
    /// The socket, until somebody accepts callers.
    bound: Option<Control>,
    task: Option<JoinHandle<()>>,
    /// Why there is no socket.
    trouble: Option<String>,
}

impl Surface {
    /// Makes the socket, if its disk takes it. Nobody is accepted before [`Self::look`].
    ///
    /// # Errors
    /// Where another daemon answers, or it will never be possible to listen there.
    pub(super) fn open(path: &Path) -> Result<(Self, mpsc::Receiver<Call>)> {
        let (calls, receiver) = mpsc::channel(QUEUE);
        let mut surface = Self { path: path.to_owned(), calls, bound: None, task: None, trouble: None };
        if surface.bind()?.is_err() {
            surface.trouble().iter().for_each(|trouble| error!("{trouble}"));
        }
        Ok((surface, receiver))
    }

    /// Makes it accept callers, or tries again to make it. To be called every second.
    ///
    /// # Errors
    /// Where nobody accepts callers any more.
    pub(super) fn look(&mut self) -> Result<()> {
        if self.task.as_ref().is_some_and(JoinHandle::is_finished) {
            bail!("the control socket's task ended");
        }
        if self.task.is_some() {
            return Ok(());
        }
        if self.bound.is_none() {
            // Whatever is wrong now, it is no reason to end.
            if !matches!(self.bind(), Ok(Ok(()))) {
                return Ok(());
            }
            info!(socket = %self.path.display(), "The control socket could be made at last.");
        }
        self.task = self.bound.take().map(|control| control.serve(self.calls.clone()));
        Ok(())
    }

    /// Says why nobody can call, in words.
    pub(super) fn trouble(&self) -> Option<String> {
        let (socket, why) = (self.path.display(), self.trouble.as_ref()?);
        Some(format!("nobody can call the daemon: {socket} cannot be made ({why}); it is tried again every second"))
    }

    /// The inner error is one of its disk's.
    fn bind(&mut self) -> Result<io::Result<()>> {
        match Control::bind(&self.path) {
            Ok(control) => (self.bound, self.trouble) = (Some(control), None),
            Err(error) if is_of_disk(&error) => {
                self.trouble = Some(error.to_string());
                return Ok(Err(error));
            }
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                return Err(anyhow!("another ftagent answers at {}: stop it first", self.path.display()));
            }
            Err(error) => return Err(error).with_context(|| format!("listening at {}", self.path.display())),
        }
        Ok(Ok(()))
    }
}
