//! Block lists from files, on their way into the kernel.

use std::time::Instant;

use anyhow::{Context as _, Result};
use tracing::{info, warn};

use super::Agent;
use crate::{act::store::origin, feeds::FeedEventKind, sense::host::Guard};

impl Agent {
    /// Looks at the feed files and, where one changed or `anyway`, replaces the feeds in the kernel. What failed last
    /// time is tried again.
    pub(super) fn poll_feeds(&mut self, anyway: bool) -> Result<()> {
        let anyway = anyway || self.unpublished.is_some();
        if !anyway && !self.feeds.any_file_changed() {
            return Ok(());
        }
        let guard = self.guard();
        let events = self.feeds.poll(&guard);
        for event in &events {
            self.audit_feed(event);
            let feed = &event.name;
            match &event.kind {
                FeedEventKind::Accepted { change, report } => {
                    info!(%feed, entries = change.entries, added = change.added, removed = change.removed, "A block list was read.");
                    if let Some(note) = report.note() {
                        warn!(%feed, %note, "Lines of the block list were left out; the rest is in force.");
                    }
                }
                FeedEventKind::Held { change, .. } => warn!(
                    %feed, entries = change.entries, added = change.added, removed = change.removed,
                    "A block list changed by more than half and is held: `ftagent feeds confirm` takes it."
                ),
                FeedEventKind::Missing => {
                    warn!(%feed, "The block list's file is gone; its last version stays in force.")
                }
                FeedEventKind::Failed { error } => {
                    warn!(%feed, %error, "A block list cannot be used; its last version stays in force.")
                }
            }
        }
        if anyway || events.iter().any(crate::feeds::FeedEvent::changes_set) {
            self.publish_feeds(&guard)?;
        }
        Ok(())
    }

    pub(super) fn publish_feeds(&mut self, guard: &Guard) -> Result<()> {
        let published = self.replace_feeds(guard);
        self.unpublished = published.as_ref().err().map(|error| format!("{error:#}"));
        published
    }

    fn replace_feeds(&mut self, guard: &Guard) -> Result<()> {
        let mut set = self.feeds.build(guard).context("reading the accepted feeds")?;
        for prefix in &self.config.lists.block {
            match guard.check(*prefix, None, false) {
                Ok(()) => set.push(*prefix, origin::CONFIG),
                Err(refusal) => warn!(%prefix, reason = refusal.reason(), "An entry of `lists.block` is left out."),
            }
        }
        if let Some(nft) = &mut self.nft {
            nft.take_feeds(&set, self.config.feed.ttl);
        }
        let (prefixes, begun) = (set.len(), Instant::now());
        self.lists.publish_feeds(set, self.clock.after(self.config.feed.ttl))?;
        if prefixes > 0 {
            info!(prefixes, took_ms = begun.elapsed().as_millis() as u64, "Block lists are in force.");
        }
        Ok(())
    }
}
