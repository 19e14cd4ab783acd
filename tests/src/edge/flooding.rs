//! Floods from the world, which end with their test.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::JoinHandle,
};

use anyhow::Result;

use super::Edge;
use crate::traffic::{Flood, Generator};

/// A flood from the world. It ends when this is dropped, and with it where a test fails.
#[derive(Debug)]
pub struct Flooding {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<Result<()>>>>,
}

impl Flooding {
    /// Begins to send.
    ///
    /// # Errors
    /// Where the world's interface is gone.
    pub fn begin(edge: &Edge, flood: Flood) -> Result<Self> {
        let (stop, ifindex) = (Arc::new(AtomicBool::new(false)), edge.leaves_by()?);
        let halt = Arc::clone(&stop);
        let thread = edge.world().spawn(move || Generator::new(ifindex)?.run(&flood, &halt).map(drop));
        Ok(Self { stop, thread: Some(thread) })
    }

    /// Ends it.
    ///
    /// # Errors
    /// What went wrong meanwhile.
    pub fn end(mut self) -> Result<()> {
        self.finish()
    }

    fn finish(&mut self) -> Result<()> {
        self.stop.store(true, Relaxed);
        let Some(thread) = self.thread.take() else { return Ok(()) };
        thread.join().map_err(|_| anyhow::anyhow!("the thread that floods panicked"))??
    }
}

impl Drop for Flooding {
    fn drop(&mut self) {
        if let Err(error) = self.finish() {
            eprintln!("the flood: {error:#}");
        }
    }
}
