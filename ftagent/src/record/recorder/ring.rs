//! What happened lately, in memory, so that a capture begins before its incident: bounded in bytes and in
//! time, oldest out first.

use std::{collections::VecDeque, sync::Arc};

use super::frame::Names;
use crate::record::tape::{Fact, IfaceSeen};

/// About what the whole core takes: most of it are tables of fixed size.
const STATE_BYTES: usize = 8 << 20;
/// How much longer than the pre-roll is kept for the sake of an image of the core: in calm there is one every
/// 15 seconds, and while an incident is open there is none.
const IMAGE_NS: u64 = 30_000_000_000;
/// What any fact takes beside its samples.
const FACT_BYTES: usize = 128;

/// The facts of the last seconds.
#[derive(Debug)]
pub struct Ring {
    facts: VecDeque<(u64, Arc<Fact>)>,
    bytes: usize,
    most_bytes: usize,
    keep_ns: u64,
    /// The end of the last tick.
    now_ns: u64,
    /// What the interfaces had counted and which rules there were before the first fact.
    before: Before,
    /// The same after the last.
    after: Before,
}

/// How things were at the end of a tick.
#[derive(Clone, Debug, Default)]
pub struct Before {
    /// What the interfaces had counted; empty where that is not known.
    pub ifaces: Vec<IfaceSeen>,
    /// The rules.
    pub names: Names,
    /// When that was, UTC, nanoseconds, and the same by the monotonic clock.
    pub at: Option<(u64, u64)>,
}

impl Before {
    fn follow(&mut self, fact: &Fact) {
        let Fact::Tick(tick) = fact else { return };
        self.ifaces.clone_from(&tick.ifaces);
        let unix_ns = u64::try_from(tick.now.unix_ms).unwrap_or(0).saturating_mul(1_000_000);
        self.at = Some((unix_ns, tick.now.mono_ns));
        if let Some(slots) = &tick.slots {
            self.names.follow(slots);
        }
    }
}

/// Where a capture begins.
#[derive(Debug)]
pub struct PreRoll {
    /// The facts from the last image of the core on that precedes the pre-roll, where there is one.
    pub facts: Vec<Arc<Fact>>,
    /// How many of these precede the pre-roll.
    pub earlier: usize,
    /// How things were when it began.
    pub before: Before,
}

impl Ring {
    /// Keeps so many bytes, and so many nanoseconds where that is less.
    pub fn new(most_bytes: usize, keep_ns: u64) -> Self {
        Self {
            facts: VecDeque::new(),
            bytes: 0,
            most_bytes,
            keep_ns,
            now_ns: 0,
            before: Before::default(),
            after: Before::default(),
        }
    }

    /// Takes a fact in and drops what is too old or too much.
    pub fn push(&mut self, fact: Arc<Fact>) {
        if let Fact::Tick(tick) = fact.as_ref() {
            if self.now_ns == 0 {
                // What came before the first tick, the first image above all, is no older than that.
                self.facts.iter_mut().for_each(|(at, _)| *at = tick.now.mono_ns);
            }
            self.now_ns = tick.now.mono_ns;
        }
        self.after.follow(&fact);
        self.bytes += weight(&fact);
        self.facts.push_back((self.now_ns, fact));
        for _ in 0..self.first(self.begin()) {
            self.drop_first();
        }
        while self.bytes > self.most_bytes {
            self.drop_first();
        }
    }

    /// Returns what precedes a capture that begins now.
    pub fn pre_roll(&self) -> PreRoll {
        let begin = self.begin();
        let first = self.first(begin);
        let mut before = self.before.clone();
        self.facts.iter().take(begin).for_each(|(_, fact)| before.follow(fact));
        let facts = self.facts.iter().skip(first).map(|(_, fact)| Arc::clone(fact)).collect();
        PreRoll { facts, earlier: begin - first, before }
    }

    /// Returns how things are now.
    pub fn now(&self) -> &Before {
        &self.after
    }

    /// Returns the bytes that it takes, about.
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Returns the seconds that it reaches back.
    pub fn seconds(&self) -> f64 {
        // What came before the first tick has no time.
        let first = self.facts.iter().map(|(at, _)| *at).find(|at| *at > 0).unwrap_or(self.now_ns);
        self.now_ns.saturating_sub(first) as f64 / 1e9
    }

    /// Returns the place of the first fact that is young enough.
    fn begin(&self) -> usize {
        let oldest = self.now_ns.saturating_sub(self.keep_ns);
        self.facts.partition_point(|(at, _)| *at < oldest)
    }

    /// Returns the place of the last image of the core that precedes the pre-roll, or where that begins.
    fn first(&self, begin: usize) -> usize {
        let oldest = self.now_ns.saturating_sub(self.keep_ns.saturating_add(IMAGE_NS));
        // The image itself may be the first that is young enough.
        let until = (begin + 1).min(self.facts.len());
        let is_image = |(at, fact): &(u64, Arc<Fact>)| *at >= oldest && matches!(fact.as_ref(), Fact::State(_));
        self.facts.iter().take(until).rposition(is_image).unwrap_or(begin)
    }

    fn drop_first(&mut self) {
        let Some((_, fact)) = self.facts.pop_front() else {
            self.bytes = 0;
            return;
        };
        self.bytes = self.bytes.saturating_sub(weight(&fact));
        self.before.follow(&fact);
    }
}

fn weight(fact: &Fact) -> usize {
    FACT_BYTES
        + match fact {
            Fact::State(_) => STATE_BYTES,
            Fact::Tick(_) | Fact::Input(_) => fact.bytes(),
        }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        decide::{Decider, Settings, input::Input, mitigate::Mode},
        record::{
            recorder::tests::{sample, tick},
            tape::Image,
        },
    };

    fn state() -> Fact {
        let core = Decider::new(Settings { trust_after_s: 1, seed: 1, mode: Mode::Observe });
        Fact::State(Arc::new(Image { core, breaks: false }))
    }

    fn push(ring: &mut Ring, fact: Fact) {
        ring.push(Arc::new(fact));
    }

    #[test]
    fn a_capture_begins_with_the_last_image_before_its_pre_roll() {
        let mut ring = Ring::new(1 << 30, 1_000_000_000);
        for at in 0..50 {
            if at % 15 == 0 {
                push(&mut ring, state());
            }
            push(&mut ring, Fact::Tick(Box::new(tick(at, &[], 10 * at))));
            push(&mut ring, Fact::Input(Box::new(Input::Reset(None))));
        }
        let PreRoll { facts, earlier, before } = ring.pre_roll();
        assert!(matches!(facts[0].as_ref(), Fact::State(_)), "taken at tick 30");
        let ticks = |facts: &[Arc<Fact>]| {
            let ticks = facts.iter().filter(|fact| matches!(fact.as_ref(), Fact::Tick(_)));
            ticks.count()
        };
        assert_eq!((ticks(&facts[..earlier]), ticks(&facts[earlier..])), (9, 11), "ticks 30 to 38, then one second");
        assert_eq!(before.ifaces[0].seen, 10 * 38, "the tick before the pre-roll's first");
        assert_eq!(ring.now().ifaces[0].seen, 490);
        assert!(ring.seconds() >= 1.0 && ring.seconds() < 2.1, "{}", ring.seconds());
    }

    #[test]
    fn an_attack_right_after_the_start_has_the_image_of_the_start() {
        let mut ring = Ring::new(1 << 30, 1_000_000_000);
        push(&mut ring, state());
        push(&mut ring, Fact::Input(Box::new(Input::Reset(None))));
        // The clock has run since the machine was booted.
        for at in 50_000..50_020 {
            push(&mut ring, Fact::Tick(Box::new(tick(at, &[], 0))));
        }
        let PreRoll { facts, earlier, .. } = ring.pre_roll();
        assert!(matches!(facts[0].as_ref(), Fact::State(_)), "it was taken before the first tick");
        assert_eq!((facts.len(), earlier), (22, 11));
    }

    #[test]
    fn an_image_that_is_old_holds_nothing_back() {
        let mut ring = Ring::new(1 << 30, 1_000_000_000);
        push(&mut ring, Fact::Tick(Box::new(tick(1, &[], 0))));
        push(&mut ring, state());
        let mut reach = Vec::new();
        for at in 2..600 {
            push(&mut ring, Fact::Tick(Box::new(tick(at, &[], 0))));
            reach.push(ring.seconds());
        }
        assert!(reach.iter().all(|seconds| *seconds <= 31.1), "an incident that lasts does not fill the memory");
        assert_eq!((ring.pre_roll().facts.len(), ring.pre_roll().earlier), (11, 0));
    }

    #[test]
    fn memory_stays_within_its_cap() {
        let cap = 2 << 20;
        let mut ring = Ring::new(cap, 10_000_000_000);
        let samples = vec![sample(1, &[0; 60]); 1000];
        for at in 0..200 {
            push(&mut ring, Fact::Tick(Box::new(tick(at, &samples, 1000 * at))));
            assert!(ring.bytes() <= cap);
        }
        let kept = ring.pre_roll();
        assert!((10..14).contains(&kept.facts.len()), "{}", kept.facts.len());
        assert_eq!(kept.before.ifaces[0].seen, 1000 * (199 - kept.facts.len() as u64));
        push(&mut ring, state());
        assert_eq!((ring.bytes(), ring.pre_roll().facts.len()), (0, 0), "an image that does not fit is not kept");
        assert_eq!(ring.pre_roll().before.ifaces[0].seen, 199_000);
    }
}
