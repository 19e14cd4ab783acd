//! The table as it is wanted, the changes that make it so, and what its rules did.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use ftagent_common::rules::RULES;
use serde_json::{Value, json};

use super::{
    intervals::{Entry, Interval, intervals},
    program::{Nft, NftError, Runner},
    read::{self, Found},
    words::{self, Hook, LISTS},
};
use crate::{
    act::enforcer::{Drift, acts_alike, in_order},
    decide::mitigate::{RuleCount, Wanted},
    rule::nft::{Compiled, compile},
};

/// nftables counts from the IP header on; the other planes count frames.
const ETHERNET: u64 = 14;
/// A lease that is off by less is left as it is.
const SLACK: Duration = Duration::from_millis(500);
/// Lists with more intervals than this are not listed every second...
const LONG: usize = 512;
/// ...but this often.
const RARELY: Duration = Duration::from_secs(60);

/// Our table on this host.
#[derive(Debug)]
pub struct Table {
    nft: Box<dyn Runner>,
    devices: Vec<String>,
    /// Where it hangs; `None`: it was not put up yet.
    hook: Option<Hook>,
    /// The interfaces that it hangs at, by name and index: one that comes back has another index, and older
    /// kernels have forgotten it. `None`: the table has to be made anew.
    hung: Option<Vec<(String, u32)>>,
    held: Vec<Held>,
    refused: Vec<Refused>,
    /// Removed rules whose counters are still there; those that were told can go.
    departed: Vec<(Held, bool)>,
    /// What rules did before the table was made anew.
    owed: Vec<RuleCount>,
    lists: Vec<Entry>,
    /// The intervals in force by list, and since when.
    filled: BTreeMap<&'static str, (Vec<Interval>, Instant)>,
    blocks: Vec<Entry>,
    print: Option<Found>,
    /// When all of it was last listed, long lists and all.
    whole: Option<Instant>,
}

/// A rule that is not in force.
#[derive(Clone, Debug, PartialEq)]
pub struct Refused {
    /// The rule.
    pub wanted: Wanted,
    /// Why.
    pub what: String,
}

/// A rule that is in force.
#[derive(Clone, Debug)]
struct Held {
    wanted: Wanted,
    compiled: Compiled,
    slot: u8,
    /// When its lease ends; `None`: it has none.
    ends: Option<Instant>,
    /// Matched and dropped: packets and bytes that were told.
    told: [(u64, u64); 2],
}

impl Table {
    /// Rules for these interfaces. Nothing is done before rules or lists are wanted; what an earlier
    /// daemon left is in force until then, or until it ends by itself.
    pub fn new(nft: Box<dyn Runner>, devices: Vec<String>) -> Self {
        Self {
            nft,
            devices,
            hook: None,
            hung: None,
            held: Vec::new(),
            refused: Vec::new(),
            departed: Vec::new(),
            owed: Vec::new(),
            lists: Vec::new(),
            blocks: Vec::new(),
            filled: BTreeMap::new(),
            print: None,
            whole: None,
        }
    }

    /// Returns where the table hangs, once it does.
    pub fn hook(&self) -> Option<Hook> {
        self.hook
    }

    /// Returns the rules that are wanted and not in force.
    pub fn refused(&self) -> &[Refused] {
        &self.refused
    }

    /// Returns the slots of the rules in force, and of those that were until a moment ago.
    pub fn slots(&self) -> BTreeMap<u32, u8> {
        let departed = self.departed.iter().map(|(held, _)| held);
        departed.chain(&self.held).map(|held| (held.wanted.id, held.slot)).collect()
    }

    /// Sets whom no rule drops, and who is dropped whatever the rules say. In force from the next
    /// [`Self::apply`] on.
    pub fn set_lists(&mut self, allow: Vec<Entry>, block: Vec<Entry>) {
        (self.lists, self.blocks) = (allow, block);
    }

    /// Puts the wanted rules and lists into force where they changed, in one transaction, and renews
    /// leases. Call it at every change and at least every second.
    ///
    /// # Errors
    /// What nftables says; then nothing was changed, and the next call makes everything anew. For rules
    /// that nftables has no words for see [`Self::refused`].
    pub fn apply(&mut self, wanted: &[Wanted], now: Instant) -> Result<(), NftError> {
        let next = self.place(wanted);
        let Err(first) = self.put(next.clone(), now) else { return Ok(()) };
        if !matches!(first, NftError::Refused(_)) {
            return Err(self.failed(first));
        }
        // Another may have removed the table, or parts of it.
        let again = self.failed(first);
        if self.put(next.clone(), now).is_ok() {
            return Ok(());
        }
        // One rule that the kernel does not take must not keep the others out.
        let bad = self.unfit(&next);
        if bad.is_empty() {
            return Err(again);
        }
        let (out, rest): (Vec<Held>, Vec<Held>) = next.into_iter().partition(|held| bad.contains_key(&held.wanted.id));
        let what = |held: &Held| bad.get(&held.wanted.id).cloned().unwrap_or_default();
        self.refused.extend(out.iter().map(|held| Refused { wanted: held.wanted.clone(), what: what(held) }));
        self.put(rest, now).map_err(|error| self.failed(error))
    }

    fn failed(&mut self, error: NftError) -> NftError {
        (self.hung, self.print) = (None, None);
        error
    }

    /// Gives every rule that nftables has words for its place; notes the others.
    fn place(&mut self, wanted: &[Wanted]) -> Vec<Held> {
        self.refused.clear();
        let taken = self.slots();
        let used: BTreeSet<u8> = taken.values().copied().collect();
        // From the other end than the kernel program's, which keeps captures beside this plane.
        let mut free = (0..=u8::MAX).rev().filter(|slot| !used.contains(slot));
        let mut next = Vec::with_capacity(wanted.len());
        for wanted in in_order(wanted) {
            let gone = self.departed.iter().map(|(held, _)| held);
            let known = self.held.iter().chain(gone).find(|held| held.wanted.id == wanted.id);
            let same = known.filter(|held| acts_alike(&held.wanted.rule, &wanted.rule));
            let compiled = match same {
                Some(held) => Ok(held.compiled.clone()),
                None => compile(&wanted.rule.matches, wanted.rule.action).map_err(|error| error.to_string()),
            };
            let slot = known.map(|held| held.slot).or_else(|| free.next()).filter(|_| next.len() < RULES);
            let full = || "256 rules are in force, or have been until a moment ago; it waits for one to end".to_owned();
            match (compiled, slot.ok_or_else(full)) {
                (Ok(compiled), Ok(slot)) => next.push(Held {
                    wanted: wanted.clone(),
                    compiled,
                    slot,
                    // The lease of a rule that was removed is gone with it.
                    ends: same.filter(|same| self.holds(same.wanted.id)).and_then(|held| held.ends),
                    told: known.map(|held| held.told).unwrap_or_default(),
                }),
                (Err(what), _) | (_, Err(what)) => self.refused.push(Refused { wanted: wanted.clone(), what }),
            }
        }
        next
    }

    fn holds(&self, id: u32) -> bool {
        self.held.iter().any(|held| held.wanted.id == id)
    }

    fn put(&mut self, mut next: Vec<Held>, now: Instant) -> Result<(), NftError> {
        let devices = present(&self.devices);
        let anew = self.hung.as_ref() != Some(&devices);
        let changed = anew
            || self.held.len() != next.len()
            || !self
                .held
                .iter()
                .zip(&next)
                .all(|(old, new)| old.wanted.id == new.wanted.id && acts_alike(&old.wanted.rule, &new.wanted.rule));
        if anew && self.hook.is_some() {
            self.owe();
            next.iter_mut().for_each(|held| held.told = Default::default());
        }
        let mut hook = self.hook.unwrap_or(Hook::Ingress);
        if let Err(error) = self.transact(hook, &mut next, now, (anew, changed), &devices) {
            let lacks = matches!(error, NftError::Refused(_)) && self.hook.is_none() && self.lacks_ingress(&devices);
            if !lacks {
                return Err(error);
            }
            hook = Hook::Prerouting;
            self.transact(hook, &mut next, now, (anew, changed), &devices).map_err(|_| error)?;
        }
        self.settle(hook, next, (anew, changed), devices);
        Ok(())
    }

    /// Returns whether it is not the rules: an empty table cannot be hung at the interfaces either.
    fn lacks_ingress(&mut self, devices: &[(String, u32)]) -> bool {
        let empty = words::elsewhere(Hook::Ingress.anew(&names(devices)));
        matches!(self.nft.run(empty), Err(NftError::Refused(_)))
    }

    /// Returns what takes away a table of ours that hangs elsewhere: an earlier life, or another kernel, had it there.
    fn other(&mut self, hook: Hook) -> Vec<Value> {
        let other = if hook == Hook::Ingress { Hook::Prerouting } else { Hook::Ingress };
        // A family that the kernel does not have must not be named in a change.
        let there = self.nft.run(vec![json!({ "list": { "tables": null } })]).is_ok_and(|tables| {
            let is = |table: &Value| table.get("name") == Some(&json!(words::TABLE));
            let of = |table: &Value| table.get("family") == Some(&json!(other.family()));
            tables.iter().filter_map(|object| object.get("table")).any(|table| is(table) && of(table))
        });
        if there { vec![json!({ "delete": other.table() })] } else { Vec::new() }
    }

    /// Runs the commands of one change, where there are any.
    fn transact(
        &mut self,
        hook: Hook,
        next: &mut [Held],
        now: Instant,
        (anew, changed): (bool, bool),
        devices: &[(String, u32)],
    ) -> Result<(), NftError> {
        let mut commands = Vec::new();
        if anew {
            commands.extend(self.other(hook));
            commands.extend(hook.anew(&names(devices)));
            self.filled.clear();
            next.iter_mut().for_each(|held| held.ends = None);
        }
        if changed {
            commands.extend(self.change(hook, next, anew));
        }
        for held in next.iter_mut() {
            let lasts = Duration::from_millis(held.wanted.ttl_ms);
            let off = held.ends.map(|ends| {
                let left = ends.saturating_duration_since(now);
                left.abs_diff(lasts)
            });
            if off.is_none_or(|off| off > SLACK) {
                let seconds = u64::try_from(lasts.as_millis().div_ceil(1000)).unwrap_or(u64::MAX);
                commands.extend(hook.renew(held.wanted.id, seconds));
                held.ends = now.checked_add(lasts);
            }
        }
        let filled = self.fill(hook, now, &mut commands);
        if !commands.is_empty() {
            self.nft.run(commands)?;
        }
        self.filled.extend(filled);
        Ok(())
    }

    /// Returns what makes the rules in force those that are wanted. Counters and leases of rules that
    /// stay are not touched.
    fn change(&self, hook: Hook, next: &[Held], anew: bool) -> Vec<Value> {
        let mut commands = Vec::new();
        let same = |held: &Held, others: &[Held]| {
            !anew && others.iter().any(|other| other.wanted.id == held.wanted.id && other.compiled == held.compiled)
        };
        if !anew {
            commands.extend(["v4", "v6"].map(|chain| hook.flush("chain", chain)));
            for old in self.held.iter().filter(|old| !same(old, next)) {
                let names = words::chain_names(old.wanted.id, &old.compiled);
                commands.extend(names.iter().map(|name| hook.flush("chain", name)));
                commands.extend(names.iter().map(|name| hook.delete("chain", name)));
            }
            let stays = |id: u32| next.iter().any(|held| held.wanted.id == id);
            for old in self.held.iter().filter(|old| !stays(old.wanted.id)) {
                commands.push(hook.delete("set", &words::lease(old.wanted.id)));
            }
            for (old, _) in self.departed.iter().filter(|(old, told)| *told && !stays(old.wanted.id)) {
                commands.extend(words::counters(old.wanted.id).map(|name| hook.delete("counter", &name)));
            }
        }
        let known = |id: u32| !anew && self.holds(id);
        for held in next {
            if !known(held.wanted.id) {
                commands.extend(hook.belongings(held.wanted.id));
            }
            if !same(held, &self.held) {
                commands.extend(hook.chains(held.wanted.id, &held.compiled));
            }
        }
        for held in next {
            let words = format!("{} {}", held.wanted.rule.matches, held.wanted.rule.action);
            commands.extend(hook.entries(held.wanted.id, &held.compiled, &words));
        }
        commands
    }

    /// Adds what brings the lists up to date; returns what they will hold. What all entries of a feed
    /// share, an end that moves on every second, is written when half of it has passed.
    fn fill(
        &self,
        hook: Hook,
        now: Instant,
        commands: &mut Vec<Value>,
    ) -> Vec<(&'static str, (Vec<Interval>, Instant))> {
        let mut filled = Vec::new();
        for (list, is4, allow) in LISTS {
            let wanted = intervals(if allow { &self.lists } else { &self.blocks }, is4);
            let known = self.filled.get(list);
            let empty = known.is_none() && wanted.is_empty();
            if empty
                || known.is_some_and(|(known, since)| is_near(known, &wanted, now.saturating_duration_since(*since)))
            {
                continue;
            }
            commands.extend(hook.fill(list, &wanted));
            filled.push((list, (wanted, now)));
        }
        filled
    }

    /// Notes what is in force now.
    fn settle(&mut self, hook: Hook, next: Vec<Held>, (anew, changed): (bool, bool), devices: Vec<(String, u32)>) {
        if anew {
            self.departed.clear();
        } else if changed {
            self.departed.retain(|(_, told)| !told);
            let left = std::mem::take(&mut self.held).into_iter();
            self.departed.extend(left.map(|held| (held, false)));
            let stays = |id: u32| next.iter().any(|held| held.wanted.id == id);
            self.departed.retain(|(held, _)| !stays(held.wanted.id));
        }
        (self.held, self.hook, self.hung) = (next, Some(hook), Some(devices));
        if anew || changed {
            // Read back at once: what is changed from here on is another's doing.
            self.print = self.look(false).ok();
        }
    }

    /// Lists the table: all of it, or without what its sets hold.
    fn look(&mut self, whole: bool) -> Result<Found, NftError> {
        let list = vec![json!({ "list": self.hook.unwrap_or(Hook::Ingress).table() })];
        if whole { self.nft.run(list) } else { self.nft.terse(list) }.map(read::found)
    }

    /// Returns whether the lists are worth listing: long ones are, once in a while. Leases are renewed every second
    /// whatever is listed.
    fn looks_whole(&self, now: Instant) -> bool {
        let long = self.filled.values().map(|(intervals, _)| intervals.len()).sum::<usize>() > LONG;
        !long || self.whole.is_none_or(|at| now.saturating_duration_since(at) >= RARELY)
    }

    /// Tries each rule alone, where nothing is changed by it, and returns those that are refused.
    fn unfit(&mut self, next: &[Held]) -> BTreeMap<u32, String> {
        let hook = self.hook.unwrap_or(Hook::Ingress);
        let mut unfit = BTreeMap::new();
        for held in next {
            let id = held.wanted.id;
            let mut commands = hook.anew(&[]);
            commands.extend(hook.belongings(id));
            commands.extend(hook.chains(id, &held.compiled));
            commands.extend(hook.entries(id, &held.compiled, ""));
            if let Err(NftError::Refused(what)) = self.nft.run(words::elsewhere(commands)) {
                unfit.insert(id, what);
            }
        }
        unfit
    }

    /// Returns what each rule did since this was last asked; of a rule that was removed meanwhile, what
    /// it did until then.
    ///
    /// # Errors
    /// What nftables says.
    pub fn counts(&mut self) -> Result<Vec<RuleCount>, NftError> {
        let hook = self.hook.filter(|_| self.hung.is_some() && !(self.held.is_empty() && self.departed.is_empty()));
        let Some(hook) = hook else { return Ok(std::mem::take(&mut self.owed)) };
        let listing = self.nft.run(vec![hook.list_counters()])?;
        let mut counts = std::mem::take(&mut self.owed);
        let counters = read::counters(&listing);
        let departed = self.departed.iter_mut().filter(|(_, told)| !told);
        counts.extend(departed.map(|(held, told)| {
            *told = true;
            held.tell(&counters)
        }));
        counts.extend(self.held.iter_mut().map(|held| held.tell(&counters)));
        Ok(counts)
    }

    /// Keeps what was counted before the table is made anew, where it can still be read.
    fn owe(&mut self) {
        let hung = self.hung.take();
        self.hung = Some(Vec::new());
        if let Ok(counts) = self.counts() {
            self.owed = counts;
        }
        self.hung = hung;
    }

    /// Compares what is wanted with what the kernel has, and repairs it.
    ///
    /// # Errors
    /// What nftables says, where it could be neither read nor repaired.
    pub fn reconcile(&mut self, wanted: &[Wanted], now: Instant) -> Result<Drift, NftError> {
        if self.hook.is_none() {
            return Ok(Drift { wanted: wanted.len(), ..Drift::default() });
        }
        let whole = self.looks_whole(now);
        if whole {
            self.whole = Some(now);
        }
        let found = match self.look(whole) {
            Ok(found) => found,
            Err(error) if error.is_absent() => Found::default(),
            Err(error) => return Err(error),
        };
        let stands = self.hung.is_some() && self.print.as_ref().is_some_and(|print| print.shape == found.shape);
        let is_there = |id: &u32| found.entries.contains(id) && (!whole || found.leased.contains(id));
        let means = |held: &Held| held.compiled.branches().next().is_some();
        let missing: Vec<String> = self
            .held
            .iter()
            .filter(|held| means(held) && !is_there(&held.wanted.id))
            .map(|held| format!("{} {}", held.wanted.rule.matches, held.wanted.rule.action))
            .collect();
        // An interface that came, or came back, is no drift: what was written still stands.
        let moved = self.hung.as_ref().is_some_and(|hung| *hung != present(&self.devices));
        let present = self.held.len() - missing.len();
        let lists = whole
            && self.filled.iter().any(|(list, (intervals, since))| {
                let passed = now.saturating_duration_since(*since);
                let alive =
                    |interval: &&Interval| interval.lasts.is_none_or(|lasts| lasts > passed + Duration::from_secs(2));
                found.listed.get(*list).copied().unwrap_or(0) < intervals.iter().filter(alive).count()
            });
        if !stands || !missing.is_empty() || lists {
            (self.hung, self.print) = (None, None);
        }
        if moved || self.hung.is_none() {
            self.apply(wanted, now)?;
        }
        Ok(Drift { wanted: wanted.len(), present, missing })
    }

    /// Takes the table off; nothing of ours is left.
    ///
    /// # Errors
    /// What nftables says.
    pub fn remove(&mut self) -> Result<(), NftError> {
        self.nft.run(words::gone())?;
        (self.hung, self.print, self.hook) = (None, None, None);
        self.held.clear();
        self.departed.clear();
        self.filled.clear();
        Ok(())
    }
}

fn names(devices: &[(String, u32)]) -> Vec<String> {
    devices.iter().map(|(name, _)| name.clone()).collect()
}

/// Returns the interfaces that there are now.
fn present(devices: &[String]) -> Vec<(String, u32)> {
    let index = |device: &String| Some((device.clone(), nix::net::if_::if_nametoindex(device.as_str()).ok()?));
    devices.iter().filter_map(index).collect()
}

/// Returns where the table would hang on this host, without changing anything.
///
/// # Errors
/// Why it could not.
pub fn probe(nft: Nft, devices: &[String]) -> Result<Hook, NftError> {
    let names: Vec<String> = present(devices).into_iter().map(|(name, _)| name).collect();
    let mut nft = nft.trying();
    match nft.run(Hook::Ingress.anew(&names)) {
        Ok(_) => Ok(Hook::Ingress),
        Err(NftError::Refused(first)) => match nft.run(Hook::Prerouting.anew(&names)) {
            Ok(_) => Ok(Hook::Prerouting),
            Err(_) => Err(NftError::Refused(first)),
        },
        Err(error) => Err(error),
    }
}

/// Returns whether a list that was filled a while ago is still as it is wanted, its ends within half of
/// what was asked for.
fn is_near(known: &[Interval], wanted: &[Interval], passed: Duration) -> bool {
    const EVEN: Duration = Duration::from_secs(2);
    known.len() == wanted.len()
        && known.iter().zip(wanted).all(|(known, wanted)| {
            let near = match (known.lasts, wanted.lasts) {
                (Some(known), Some(wanted)) => {
                    let left = known.saturating_sub(passed);
                    left.saturating_sub(wanted) <= EVEN && wanted.saturating_sub(left) <= EVEN.max(wanted / 2)
                }
                (known, wanted) => known == wanted,
            };
            near && (known.first, known.last) == (wanted.first, wanted.last)
        })
}

impl Held {
    /// Returns what it did since this was last called.
    fn tell(&mut self, counters: &BTreeMap<String, (u64, u64)>) -> RuleCount {
        let now = words::counters(self.wanted.id).map(|name| counters.get(&name).copied().unwrap_or_default());
        let before = std::mem::replace(&mut self.told, now);
        let since = |i: usize| {
            let ((now, bytes), (before, bytes_before)) =
                (now.get(i).copied().unwrap_or_default(), before.get(i).copied().unwrap_or_default());
            let packets = now.saturating_sub(before);
            (packets, bytes.saturating_sub(bytes_before) + ETHERNET * packets)
        };
        let ((packets, bytes), (dropped, dropped_bytes)) = (since(0), since(1));
        RuleCount { id: self.wanted.id, packets, bytes, dropped, dropped_bytes, refused: false }
    }
}

#[cfg(test)]
mod tests;
