//! What the recorder says of itself: how things are, and the totals since the start.

use std::{collections::BTreeMap, sync::PoisonError};

use serde_json::json;
use tracing::{info, warn};

use super::{
    Recorder, SAID,
    recording::Recording,
    retention::{Removed, Why},
    status::{CaptureStatus, RecordingStatus},
};
use crate::record::audit::Entry;

impl Recorder {
    /// Keeps the totals of a capture that is not followed any more: they never become less.
    pub(super) fn add(&mut self, recording: &Recording) {
        self.written += recording.written();
        self.lost.add(&recording.loss());
        sum(&mut self.hits, recording.hits());
    }

    /// Says that a capture was removed, and why: evidence never goes without a word.
    pub(super) fn removed(&mut self, Removed { id, bytes, why }: &Removed) {
        let words = why.words(&self.settings);
        if *why == Why::Age {
            info!(capture = %id, bytes, why = words, "A capture was removed.");
        } else {
            warn!(capture = %id, bytes, why = words, "A capture was removed to make room.");
            let trouble = format!(
                "captures are removed to make room, {id} last, because {words}: make room, or have them copied elsewhere \
                 (`remote`); `ftagent capture hold` keeps one"
            );
            self.made_room = Some((self.beats, trouble));
        }
        self.log.after(Entry::new("capture.remove", id.as_str()).because(words).was(json!({ "bytes": bytes })));
    }

    fn made_room(&self) -> Option<String> {
        let (at, trouble) = self.made_room.as_ref()?;
        (self.beats.saturating_sub(*at) < SAID).then(|| trouble.clone())
    }

    /// Says how things are, and that something does not work when that begins and ends.
    pub(super) fn publish(&mut self) {
        let all = || self.open.iter().chain(self.unfinished.iter().map(|(recording, _)| recording));
        let mut status = CaptureStatus {
            ring_bytes: self.ring.bytes() as u64,
            ring_s: self.ring.seconds(),
            disk_bytes: self.disk_bytes,
            written: self.written,
            lost: self.lost,
            lost_ticks: self.tape_lost.0,
            recordings: Vec::new(),
            hits: self.hits.clone(),
            trouble: all().find_map(|recording| recording.trouble.clone()).or(self.sweep_trouble.clone()),
        };
        for recording in all() {
            status.written += recording.written();
            status.lost.add(&recording.loss());
            status.disk_bytes += recording.bytes();
            sum(&mut status.hits, recording.hits());
        }
        let shown = |recording: &Recording| RecordingStatus {
            id: recording.plan.id.clone(),
            matches: recording.plan.matches.as_ref().map(ToString::to_string),
            since_ms: recording.begun_ms(),
            bytes: recording.bytes(),
            packets: recording.written(),
        };
        status.recordings = self.open.iter().map(shown).collect();
        match &status.trouble {
            Some(trouble) if !self.told => warn!("{trouble}"),
            None if self.told => info!("Captures are written again."),
            _ => {}
        }
        self.told = status.trouble.is_some();
        status.trouble = status.trouble.or_else(|| self.made_room());
        *self.status.lock().unwrap_or_else(PoisonError::into_inner) = status;
    }
}

fn sum(totals: &mut BTreeMap<String, u64>, more: Vec<(String, u64)>) {
    more.into_iter().for_each(|(name, count)| *totals.entry(name).or_default() += count);
}
