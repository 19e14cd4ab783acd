//! Captures that have ended, and whose end the disk does not take.

use tracing::{error, info};

use super::{GIVE_UP, Recorder, meta::Status, store};

/// Captures of which it is remembered that their end was given up, at most.
const REMEMBERED: usize = 64;

impl Recorder {
    /// Tries to end them again, and gives up those that waited too long.
    pub(super) fn finish_late(&mut self) {
        for (mut recording, since) in std::mem::take(&mut self.unfinished) {
            match recording.finish(Status::Closed) {
                Ok(()) => self.finished(&recording),
                Err(error) if self.beats.saturating_sub(since) >= GIVE_UP => {
                    error!(capture = %recording.plan.id, %error, "The end of a capture is lost: the disk did not take it.");
                    self.add(&recording);
                    self.given_up.push((recording.facts(), recording.was_made()));
                    if self.given_up.len() > REMEMBERED {
                        self.given_up.remove(0);
                    }
                }
                Err(_) => self.unfinished.push((recording, since)),
            }
        }
    }

    /// Writes down what became of those that were given up, where the disk takes it by now.
    pub(super) fn describe_given_up(&mut self) {
        let root = &self.root;
        self.given_up.retain(|(known, was_made)| {
            let written = store::finish_given_up(root, known, *was_made);
            if written.is_ok() {
                info!(capture = %known.id, "A capture whose end was lost was described.");
            }
            written.is_err()
        });
    }
}
