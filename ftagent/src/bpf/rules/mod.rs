//! Signature rules in the kernel: the host's side of `ftagent-ebpf/src/rules.rs`.
//!
//! A set of rules is compiled into the half of the `rules` map that is not in force, and one 32-bit
//! store flips to it: no packet meets a half-applied set. Expiry, rate and counters are by slot and
//! outlive the flip.

pub mod compile;
#[cfg(test)]
mod tests;

use std::{collections::BTreeSet, mem::offset_of, os::fd::AsFd as _, sync::Arc, thread::JoinHandle};

use aya::{Ebpf, maps::MapData};
use ftagent_common::{
    abi::{Control, maps, rules as half},
    rules::{Counter, Counters, RULES, State, Table, action},
};
use thiserror::Error;

use super::load::{LoadError, fd, io, open_map};
use crate::{
    rule::{Action, Rule},
    sys::{self, fence::Fence, mmap::MappedArray},
};

/// A rule and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Where its state and counters are, 0 to 255; no other rule has it.
    pub slot: u8,
    /// The rule.
    pub rule: Rule,
    /// The jiffy from which it no longer counts.
    pub expires: u64,
}

/// Why a set of rules cannot be put into the kernel. Nothing has changed then.
#[derive(Debug, Error)]
pub enum RulesError {
    /// They do not fit the table: the rule, and which limit it breaks.
    #[error("rule {slot} (`{rule}`) does not fit: {what}")]
    Compile {
        /// Its slot.
        slot: u8,
        /// Its match, as text.
        rule: String,
        /// Which limit, and what to do.
        what: String,
    },
    /// The kernel refused.
    #[error(transparent)]
    Load(#[from] LoadError),
}

/// Words of 64 bits in a [`Table`].
const TABLE_WORDS: usize = size_of::<Table>() / 8;

/// The rules in the kernel.
#[derive(Debug)]
pub struct KernelRules {
    control: MappedArray<Control>,
    tables: MapData,
    /// The same, for reading without a copy of half a megabyte.
    words: MappedArray<[u8; 8]>,
    states: MappedArray<State>,
    counters: MapData,
    /// One value for each possible CPU, as the kernel copies them out.
    cpus: Vec<Counters>,
    /// What each slot had counted when it was taken.
    base: Vec<Counter>,
    /// Slots in force.
    taken: BTreeSet<u8>,
    /// Slots that packets may still be in: free as soon as these have left.
    leaving: BTreeSet<u8>,
    /// `None` where no program runs but by a call of ours: there is nothing to wait for.
    fence: Option<Arc<Fence>>,
    /// How many sets were installed, and how many of those before them all CPUs have left.
    flips: u64,
    left: u64,
    waiting: Option<JoinHandle<std::io::Result<()>>>,
}

impl KernelRules {
    /// Opens the maps of a loaded object. What an earlier daemon installed stays in force.
    ///
    /// # Errors
    /// See [`LoadError`].
    pub fn open(ebpf: &Ebpf) -> Result<Self, LoadError> {
        let fence = Fence::new().map_err(io("making a map to wait on"))?;
        Self::new(ebpf, Some(Arc::new(fence)))
    }

    /// Opens the maps of an object that is run by calls of the same thread only: nothing has to be
    /// waited for.
    ///
    /// # Errors
    /// See [`LoadError`].
    pub fn open_idle(ebpf: &Ebpf) -> Result<Self, LoadError> {
        Self::new(ebpf, None)
    }

    fn new(ebpf: &Ebpf, fence: Option<Arc<Fence>>) -> Result<Self, LoadError> {
        let cpus = aya::util::nr_cpus().map_err(|(_, error)| error).map_err(io("counting CPUs"))?;
        let mut rules = Self {
            control: MappedArray::new(fd(ebpf, maps::CONTROL)?, 1).map_err(io("mapping `control`"))?,
            tables: open_map(ebpf, maps::RULES)?,
            words: MappedArray::new(fd(ebpf, maps::RULES)?, 2 * TABLE_WORDS).map_err(io("mapping `rules`"))?,
            states: MappedArray::new(fd(ebpf, maps::RULE_STATES)?, RULES).map_err(io("mapping `rule_states`"))?,
            counters: open_map(ebpf, maps::RULE_COUNTERS)?,
            cpus: vec![Counters::ZERO; cpus],
            base: vec![Counter::default(); RULES],
            taken: BTreeSet::new(),
            leaving: BTreeSet::new(),
            // Whether packets are still in the half that is not in force, an earlier daemon knew.
            flips: 1,
            left: 0,
            fence,
            waiting: None,
        };
        if rules.control.get(0).abi == 0 {
            rules.control.set(0, Control::EMPTY);
        }
        rules.taken = rules.present().into_iter().map(|(slot, _)| slot).collect();
        Ok(rules)
    }

    /// Puts these rules into force, in the order in which they are tried, in place of what was.
    /// `hz`: jiffies in a second. Waits, some tens of milliseconds, only where the last call was
    /// as short a time ago.
    ///
    /// # Errors
    /// See [`RulesError`]; what was in force stays.
    pub fn install(&mut self, rules: &[Placed], hz: u64) -> Result<(), RulesError> {
        let table = compile::compile(rules)?;
        self.wait()?;
        let sums = self.sums()?;
        let next = 1 - self.half();
        sys::bpf::update(self.tables.fd().as_fd(), &next, &*table).map_err(io("writing `rules`"))?;

        let slots: BTreeSet<u8> = rules.iter().map(|placed| placed.slot).collect();
        let mut loosened = Vec::new();
        for placed in rules {
            let state = compile::state(placed.rule.action, placed.expires, hz);
            if self.taken.contains(&placed.slot) {
                loosened.extend(self.change(placed.slot, state));
                continue;
            }
            let slot = usize::from(placed.slot);
            if let (Some(base), Some(sum)) = (self.base.get_mut(slot), sums.get(slot)) {
                *base = *sum;
            }
            self.states.set(slot, state);
        }
        let any = if rules.is_empty() { 0 } else { half::ANY };
        self.control.store(0, offset_of!(Control, rules), any | (next * half::HALF));
        for (slot, action) in loosened {
            self.states.store(usize::from(slot), offset_of!(State, action), action);
        }
        self.leaving = self.taken.difference(&slots).copied().collect();
        self.taken = slots;
        self.flips += 1;
        self.start_waiting()
    }

    /// Changes the state of a rule that is in force. What makes it stricter is done here, before
    /// the flip; where it becomes looser, returns the action for after the flip: in between, a
    /// packet that both sets drop is dropped.
    fn change(&mut self, slot: u8, to: State) -> Option<(u8, u32)> {
        let at = usize::from(slot);
        let now = self.states.get(at);
        // A rule that limits no more keeps its rate: it may still be asked for it.
        if is_limit(&to) {
            self.states.store(at, offset_of!(State, per_jiffy), to.per_jiffy);
            self.states.store(at, offset_of!(State, burst), to.burst);
            self.states.store(at, offset_of!(State, chunk), to.chunk);
        }
        self.states.store(at, offset_of!(State, expires), to.expires);
        let strictness = |action| match action {
            action::COUNT | action::CAPTURE => 0,
            action::DROP => 2,
            _ => 1,
        };
        if strictness(to.action) < strictness(now.action) {
            return Some((slot, to.action));
        }
        self.states.store(at, offset_of!(State, action), to.action);
        None
    }

    /// Sets when a rule ends.
    pub fn renew(&mut self, slot: u8, expires: u64) {
        self.states.store(usize::from(slot), offset_of!(State, expires), expires);
    }

    /// Returns what each rule did since its slot was last taken, over all CPUs.
    ///
    /// # Errors
    /// What the map says.
    pub fn counters(&mut self) -> Result<Box<Counters>, LoadError> {
        let sums = self.sums()?;
        let mut counters = sys::zeroed::<Counters>();
        for ((to, sum), base) in counters.slots.iter_mut().zip(&sums).zip(&self.base) {
            *to = Counter {
                packets: sum.packets.saturating_sub(base.packets),
                bytes: sum.bytes.saturating_sub(base.bytes),
                dropped: sum.dropped.saturating_sub(base.dropped),
                dropped_bytes: sum.dropped_bytes.saturating_sub(base.dropped_bytes),
                lease: 0,
            };
        }
        Ok(counters)
    }

    /// Returns the slots that are in force and when each ends, as read back from the kernel: what
    /// the reconciler compares with what is wanted.
    pub fn present(&self) -> Vec<(u8, u64)> {
        let rules = self.control.get(0).rules;
        if rules & half::ANY == 0 {
            return Vec::new();
        }
        let bits = self.bytes(offset_of!(Table, bits), 4);
        let bits = bits.try_into().map_or(0, u32::from_ne_bytes) as usize;
        let slots: BTreeSet<u8> = self.bytes(offset_of!(Table, slots), bits.min(RULES)).into_iter().collect();
        slots.into_iter().map(|slot| (slot, self.states.get(usize::from(slot)).expires)).collect()
    }

    /// Returns whether a slot's rule does this, as read back from the kernel.
    pub fn does(&self, slot: u8, action: Action, hz: u64) -> bool {
        let (is, expected) = (self.states.get(usize::from(slot)), compile::state(action, 0, hz));
        let rate = |state: &State| (state.per_jiffy, state.burst, state.chunk);
        is.action == expected.action && (!is_limit(&expected) || rate(&is) == rate(&expected))
    }

    /// Returns a number that tells the table in force from nearly any other.
    pub fn fingerprint(&self) -> u64 {
        let from = self.half() as usize * TABLE_WORDS;
        // FNV-1a (Fowler, Noll, Vo), by words.
        (from..from + TABLE_WORDS).fold(0xcbf2_9ce4_8422_2325, |hash: u64, word| {
            (hash ^ u64::from_ne_bytes(self.words.get(word))).wrapping_mul(0x0100_0000_01b3)
        })
    }

    /// Returns the number of sets installed: what [`Self::have_left`] is asked with.
    pub fn flips(&self) -> u64 {
        self.flips
    }

    /// Returns whether all CPUs have left what was in force before the set of this number: its
    /// slots' counters stand still, and the slots may be given to others. Does not wait.
    pub fn have_left(&mut self, flips: u64) -> bool {
        if self.waiting.as_ref().is_some_and(JoinHandle::is_finished)
            && let Err(error) = self.wait()
        {
            tracing::warn!(%error, "Waiting for packets to leave the rules failed; their slots rest on.");
        }
        self.left >= flips
    }

    /// Returns when no CPU is in the half that is not in force.
    fn wait(&mut self) -> Result<(), LoadError> {
        if self.left < self.flips {
            let waited = match (self.waiting.take(), &self.fence) {
                (Some(thread), _) => {
                    thread.join().unwrap_or_else(|_| Err(std::io::Error::other("the thread panicked")))
                }
                (None, Some(fence)) => fence.wait(),
                (None, None) => Ok(()),
            };
            waited.map_err(io("waiting for packets to leave the rules before"))?;
            self.left = self.flips;
            for slot in std::mem::take(&mut self.leaving) {
                self.states.store(usize::from(slot), offset_of!(State, expires), 0u64);
            }
        }
        Ok(())
    }

    /// Has another thread wait, so that the next call need not.
    fn start_waiting(&mut self) -> Result<(), RulesError> {
        let Some(fence) = self.fence.clone() else { return Ok(self.wait()?) };
        let thread = std::thread::Builder::new().name("rules-left".into()).spawn(move || fence.wait());
        // Without a thread, the next call waits itself.
        self.waiting = thread.ok();
        Ok(())
    }

    fn half(&self) -> u32 {
        u32::from(self.control.get(0).rules & half::HALF != 0)
    }

    /// Reads bytes of the table in force.
    fn bytes(&self, offset: usize, bytes: usize) -> Vec<u8> {
        let from = self.half() as usize * TABLE_WORDS + offset / 8;
        let words = (from..from + (offset % 8 + bytes).div_ceil(8)).flat_map(|word| self.words.get(word));
        words.skip(offset % 8).take(bytes).collect()
    }

    /// Reads the counters of all slots, over all CPUs.
    fn sums(&mut self) -> Result<Vec<Counter>, LoadError> {
        sys::bpf::lookup_per_cpu(self.counters.fd().as_fd(), &0u32, &mut self.cpus)
            .map_err(io("reading `rule_counters`"))?;
        let mut sums = vec![Counter::default(); RULES];
        for cpu in &self.cpus {
            for (sum, counter) in sums.iter_mut().zip(&cpu.slots) {
                sum.packets += counter.packets;
                sum.bytes += counter.bytes;
                sum.dropped += counter.dropped;
                sum.dropped_bytes += counter.dropped_bytes;
            }
        }
        Ok(sums)
    }
}

const fn is_limit(state: &State) -> bool {
    matches!(state.action, action::LIMIT_PACKETS | action::LIMIT_BYTES)
}
