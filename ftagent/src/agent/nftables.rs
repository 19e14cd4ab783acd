//! Rules in nftables instead of the kernel program, where the configuration says so.
//!
//! What nftables has no words for, captures and challenges, stays in the kernel program. The lists are
//! told to nftables too: whom the allow list names no rule drops, and on an interface without the kernel
//! program the block lists are enforced there.

use std::{
    fs, io,
    panic::resume_unwind,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow};
use ipnet::IpNet;
use serde_json::json;
use tracing::{error, info, warn};

use super::{
    Agent,
    iface::{Iface, State},
    mitigator::Plane,
    rules::mode_of,
};
use crate::{
    act::{
        enforcer::{Drift, Enforcer, Jiffies},
        nft::{Entry, Nft, NftPlane, Remote, Runner as _, gone},
    },
    bpf::{
        LoadError,
        attach::AttachError,
        lists::{FeedSet, Which, net4, net6},
        rules::{KernelRules, RulesError},
    },
    config::RulePlane,
    decide::mitigate::{Mode, RuleCount, Wanted},
    rule::Action,
};

/// Says that a table of ours may be there, over restarts.
const MARK: &str = "nftables";
/// Feeds share an end that moves on; nftables is told of it this often.
const FEEDS_EVERY: Duration = Duration::from_secs(60);

/// What the agent keeps of the plane.
pub(super) struct Nftables {
    remote: Remote,
    /// What feeds and the configuration block, and how long without a daemon.
    feeds: Vec<IpNet>,
    feeds_last: Duration,
    /// What was last told, and when.
    told: (Vec<Entry>, Vec<Entry>),
    told_at: Option<Instant>,
}

impl Nftables {
    /// Takes the prefixes of feeds.
    pub(super) fn take_feeds(&mut self, set: &FeedSet, lasts: Duration) {
        let v4 = set.v4.iter().map(|(key, _)| net4(*key));
        self.feeds = v4.chain(set.v6.iter().map(|(key, _)| net6(*key))).collect();
        (self.feeds_last, self.told_at) = (lasts, None);
    }
}

/// Rules in nftables, and in the kernel program what nftables has no words for.
#[derive(Debug)]
struct Both {
    kernel: Enforcer,
    nft: NftPlane,
}

impl Both {
    /// Divides what is wanted; the second half is the kernel program's.
    fn divide(wanted: &[Wanted]) -> (Vec<Wanted>, Vec<Wanted>) {
        let is_nft = |wanted: &Wanted| !matches!(wanted.rule.action, Action::Capture | Action::Challenge);
        wanted.iter().cloned().partition(is_nft)
    }
}

impl Plane for Both {
    fn apply(&mut self, wanted: &[Wanted], jiffies: Jiffies) -> Result<(), Vec<RulesError>> {
        let (nft, kernel) = Self::divide(wanted);
        let mut errors = self.kernel.apply(&kernel, jiffies).err().unwrap_or_default();
        errors.extend(self.nft.apply(&nft).err().unwrap_or_default());
        if errors.is_empty() { Ok(()) } else { Err(errors) }
    }

    fn counts(&mut self) -> Result<Vec<RuleCount>, LoadError> {
        let mut counts = self.kernel.counts()?;
        counts.extend(self.nft.counts()?);
        Ok(counts)
    }

    fn reconcile(&mut self, wanted: &[Wanted], jiffies: Jiffies) -> Drift {
        let (nft, kernel) = Self::divide(wanted);
        let (mut kernel, nft_drift) = (self.kernel.reconcile(&kernel, jiffies), self.nft.drift());
        // The thread looks once a second: what was wanted since is no drift.
        kernel.wanted += nft.len();
        kernel.present += if nft_drift.missing.is_empty() { nft.len() } else { nft_drift.present };
        kernel.missing.extend(nft_drift.missing);
        kernel
    }

    fn slot(&self, id: u32) -> Option<u8> {
        self.kernel.slot(id).or_else(|| self.nft.slot(id))
    }
}

impl Agent {
    /// Opens what puts rules into force.
    pub(super) fn open_plane(&mut self, mut kernel: KernelRules) -> Result<Box<dyn Plane>> {
        let mark = mark(&self.config.paths.state);
        if self.config.mitigation.plane == RulePlane::Xdp {
            remove_nftables_of(&self.config.paths.state)
                .context("removing the nftables table of an earlier configuration")?;
            // What operators made takes the place of an earlier life's rules at once; else nothing would.
            if mode_of(&self.config) == Mode::Observe && self.rules.rules().is_empty() {
                kernel.install(&[], self.clock.hz()).context("taking an earlier life's rules out")?;
            }
            return Ok(Box::new(Enforcer::new(kernel)));
        }
        let mut nft = Nft::default();
        nft.run(vec![json!({ "list": { "tables": null } })]).context("`mitigation.plane` is \"nftables\"")?;
        if let Err(error) = fs::write(&mark, b"") {
            warn!(%error, mark = %mark.display(), "That rules are in nftables cannot be noted; it is tried again.");
        }
        // What an earlier configuration left in the kernel program would come first, and count.
        kernel.install(&[], self.clock.hz()).context("taking rules out of the kernel program")?;
        let devices = self.ifaces.iter().map(|iface| iface.name.clone()).collect();
        let begin = || {
            if let Err(error) = crate::privileges::drop_unneeded() {
                warn!(%error, "Capabilities could not be dropped.");
            }
        };
        let plane = NftPlane::spawn(Box::new(nft), devices, begin).context("starting the nftables plane")?;
        let (remote, feeds_last) = (plane.remote(), self.config.feed.ttl);
        self.nft = Some(Nftables { remote, feeds: Vec::new(), feeds_last, told: Default::default(), told_at: None });
        self.tell_nftables();
        info!("Rules are put into nftables (table ftagent).");
        Ok(Box::new(Both { kernel: Enforcer::new(kernel), nft: plane }))
    }

    /// Tells nftables the lists, where they changed or their ends have to be moved on.
    pub(super) fn tell_nftables(&mut self) {
        let Some(nft) = &mut self.nft else { return };
        let is_blind = self.ifaces.iter().any(|iface| iface.attached().is_none());
        let entries = |which: Which| -> Result<Vec<Entry>, LoadError> {
            let entry = |(net, entry): (IpNet, ftagent_common::lists::ListEntry)| {
                let lasts = (entry.expires != u64::MAX).then(|| self.clock.until(entry.expires));
                Entry { net, lasts }
            };
            Ok(self
                .lists
                .entries(which)?
                .into_iter()
                .map(entry)
                .filter(|entry| entry.lasts != Some(Duration::ZERO))
                .collect())
        };
        let (allow, block) =
            match (entries(Which::Allow), if is_blind { entries(Which::Block) } else { Ok(Vec::new()) }) {
                (Ok(allow), Ok(block)) => (allow, block),
                (Err(error), _) | (_, Err(error)) => {
                    return warn!(
                        error = crate::chain(&error),
                        "nftables was not told the lists: they could not be read."
                    );
                }
            };
        let mut block = block;
        if is_blind {
            block.extend(nft.feeds.iter().map(|net| Entry { net: *net, lasts: Some(nft.feeds_last) }));
        }
        // Maps have no order.
        let mut allow = allow;
        allow.sort_unstable();
        block.sort_unstable();
        let nets = |entries: &[Entry]| entries.iter().map(|entry| entry.net).collect::<Vec<_>>();
        let same = nets(&allow) == nets(&nft.told.0) && nets(&block) == nets(&nft.told.1);
        if same && nft.told_at.is_some_and(|at| at.elapsed() < FEEDS_EVERY) {
            return;
        }
        nft.remote.set_lists(allow.clone(), block.clone());
        (nft.told, nft.told_at) = ((allow, block), Some(Instant::now()));
    }

    /// Takes the table off, where there is one; calls `alive` while `nft` takes its time.
    pub(super) fn remove_nftables(&mut self, alive: &dyn Fn()) -> Result<()> {
        const THERE: &str = "the nftables table is still there";
        let state = &self.config.paths.state;
        let Some(nft) = self.nft.take() else {
            // Where the plane could not remove it, its thread has ended and the table is there.
            return patiently(alive, || remove_nftables_of(state)).context(THERE);
        };
        patiently(alive, || nft.remote.remove()).map_err(|what| anyhow!(what)).context(THERE)?;
        unmark(&mark(&self.config.paths.state));
        Ok(())
    }

    /// Notes that there is a table, where the disk did not take that yet.
    pub(super) fn keep_mark(&self) {
        let mark = mark(&self.config.paths.state);
        if self.nft.is_some() && !mark.exists() {
            // That nothing can be written is told anyway.
            let _again = fs::write(&mark, b"");
        }
    }
}

/// Has another thread do what may take long, and calls `alive` meanwhile.
fn patiently<T: Send>(alive: &dyn Fn(), work: impl FnOnce() -> T + Send) -> T {
    const SLICE: Duration = Duration::from_millis(100);
    thread::scope(|scope| {
        let worker = scope.spawn(work);
        while !worker.is_finished() {
            alive();
            thread::sleep(SLICE);
        }
        worker.join().unwrap_or_else(|panicked| resume_unwind(panicked))
    })
}

fn mark(state: &Path) -> PathBuf {
    state.join(MARK)
}

/// Removes the table where a daemon with this state directory has put one up.
///
/// # Errors
/// Why it is still there.
pub(crate) fn remove_nftables_of(state: &Path) -> io::Result<()> {
    let mark = mark(state);
    if !mark.exists() {
        return Ok(());
    }
    Nft::default().run(gone()).map_err(io::Error::other)?;
    unmark(&mark);
    Ok(())
}

/// Notes that there is no table any more. Where the disk does not take that, the next start looks for it in vain.
fn unmark(mark: &Path) {
    match fs::remove_file(mark) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            warn!(%error, mark = %mark.display(), "That there is no nftables table any more cannot be noted.");
        }
        _ => {}
    }
}

/// Returns whether an interface can be left without the kernel program for this reason.
pub(super) fn goes_without(error: &AttachError) -> bool {
    matches!(error, AttachError::Foreign { .. } | AttachError::NoNative { .. })
}

/// Leaves an interface without the kernel program.
pub(super) fn go_without(iface: &mut Iface, error: &AttachError) {
    /// A driver that gains XDP, or an owner that leaves, is no matter of seconds.
    const RETRY: Duration = Duration::from_secs(300);
    let reason = crate::chain(error);
    error!(
        interface = %iface.name, %reason,
        "No eyes on this interface: nftables enforces block lists and rules there, but nothing is counted or detected."
    );
    iface.state = State::Detached { reason, retry: Instant::now() + RETRY };
}
