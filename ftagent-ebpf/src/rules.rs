//! Signature rules. See `ftagent_common::rules` for how they are laid out.
//!
//! Each dimension yields the set of rules that the packet satisfies; the sets are intersected, the
//! cheap ones first, and prefixes and payloads are looked at only where a rule is left that asks
//! for them. Then the rules that are left are tried in order.
#![expect(unsafe_code, reason = "states and counters are written in place")]

pub mod rate;
mod search;

use core::{arch::asm, ffi::c_void};

use aya_ebpf::{
    bindings::xdp_md,
    helpers::generated::{bpf_loop, bpf_xdp_load_bytes},
    programs::XdpContext,
};
use ftagent_common::{
    DropReason, TrafficClass,
    abi::rules as half,
    parse::{Facts, Family, Packet as _, key},
    rules::{self, ABSENT, Bits, Counter, Counters, PATTERNS, RULES, State, TOKEN, Table, Wide, action, uses},
    sample::SampleHeader,
};

use self::{
    rate::is_within_state,
    search::{interval4, interval6},
};
use crate::{maps, packet::XdpPacket};

/// The reason of a packet that is not to be dropped, but to be asked whether its source is there.
pub const CHALLENGED: u8 = SampleHeader::NO_REASON - 1;

/// In the upper bits of [`Outcome::rule`]: a rule that captures matched.
pub const CAPTURED: u16 = 1 << 15;

/// What the rules say of a packet.
#[derive(Clone, Copy)]
pub struct Outcome {
    /// Why it is to be dropped: [`DropReason`] by number; else [`CHALLENGED`] or
    /// [`SampleHeader::NO_REASON`].
    pub reason: u8,
    /// Slot + 1 of the rule that decided, or of the first that counted it; 0 for none. And [`CAPTURED`].
    pub rule: u16,
}

impl Outcome {
    const NOTHING: Self = Self { reason: SampleHeader::NO_REASON, rule: 0 };

    #[inline(always)]
    const fn to_bits(self) -> u32 {
        self.reason as u32 | (self.rule as u32) << 16
    }

    #[inline(always)]
    const fn from_bits(bits: u32) -> Self {
        Self { reason: bits as u8, rule: (bits >> 16) as u16 }
    }
}

/// Counts a packet that a rule dropped.
#[inline(always)]
pub fn count_dropped(rule: u16, wire: u32) {
    let slot = opaque(rule as usize).wrapping_sub(1) & (RULES - 1);
    let Some(counters) = maps::RULE_COUNTERS.get_ptr_mut(0) else { return };
    // SAFETY: this CPU's own value, from a lookup; the index was masked.
    unsafe {
        let counter = (&raw mut (*counters).slots).cast::<Counter>().add(slot);
        (*counter).dropped += 1;
        (*counter).dropped_bytes += wire as u64;
    }
}

/// Returns what the rules say.
///
/// The fields are looked up in place, where the parser has just been and most packets leave: calls
/// are dear on CPUs whose returns the kernel has to make safe (`spec_rstack_overflow`). The rest is
/// in a function.
#[inline(always)]
pub fn decide(packet: &XdpPacket, facts: &Facts, rules: u32) -> Outcome {
    if rules & half::ANY == 0 || matches!(facts.family, Family::None) {
        return Outcome::NOTHING;
    }
    let half = (rules & half::HALF) / half::HALF;
    let Some(table) = maps::RULES.get(half) else { return Outcome::NOTHING };
    let is_v6 = matches!(facts.family, Family::V6);
    let (uses, proto) = if is_v6 { (&table.uses[1], &table.proto[1]) } else { (&table.uses[0], &table.proto[0]) };
    let index = opaque(facts.proto as usize) & 0xff;
    let Some(&used) = uses.get(index) else { return Outcome::NOTHING };
    // No rule accepts the protocol.
    if used == 0 || facts.class == TrafficClass::Malformed as u32 {
        return Outcome::NOTHING;
    }
    let Some(&left) = proto.get(index) else { return Outcome::NOTHING };
    let mut left = Set(left);
    let plain = packet.plain();
    by_fields(&plain, facts, table, used, &mut left);
    if left.is_empty() {
        return Outcome::NOTHING;
    }
    let Some(counters) = maps::RULE_COUNTERS.get_ptr_mut(0) else { return Outcome::NOTHING };
    Scratch::of(counters).keep(left);
    let place = facts.l3 as u64
        | (facts.l4 as u64) << 16
        | ((facts.class & 0xff) as u64) << 32
        | (facts.proto as u64) << 40
        | (is_v6 as u64) << 48
        | (half as u64) << 56;
    Outcome::from_bits(ftagent_rules(packet.context(), place, facts.wire))
}

/// Looks at what is left to be looked at, and tries the rules; a global function, which the verifier
/// checks on its own. `place` are the facts that cannot be read from the packet again.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn ftagent_rules(ctx: *mut xdp_md, place: u64, wire: u32) -> u32 {
    let context = XdpContext::new(ctx);
    let packet = XdpPacket::new(&context, None);
    let Some(counters) = maps::RULE_COUNTERS.get_ptr_mut(0) else { return Outcome::NOTHING.to_bits() };
    let scratch = Scratch::of(counters);
    let place = scratch.forget(place);
    let left = scratch.left();
    let half = (place >> 56) as u32 & 1;
    let Some(table) = maps::RULES.get(half) else { return Outcome::NOTHING.to_bits() };
    let facts = Facts {
        class: (place >> 32) as u32 & 0xff,
        family: if place >> 48 & 1 != 0 { Family::V6 } else { Family::V4 },
        src: (0, 0),
        dst: (0, 0),
        proto: (place >> 40) as u8,
        l3: place as u16,
        l4: (place >> 16) as u16,
        wire,
    };
    by_prefixes(&packet, table, &facts, left);
    if left.meets(&table.patterned) {
        by_payload(&packet, table, &facts, left);
    }
    judge(Court { table, counters, now: maps::jiffies() }, left, wire, half).to_bits()
}

/// What of this CPU's counters is the program's own.
///
/// The verifier does not look there: what is written and read again it no longer knows. It would
/// follow every number that is known on some path from there to the end of the program.
#[derive(Clone, Copy)]
struct Scratch(*mut rules::Scratch);

// SAFETY of the blocks below: this CPU's own value, from a lookup. The stores are volatile, so that
// the compiler does not see through them.
impl Scratch {
    #[inline(always)]
    fn of(counters: *mut Counters) -> Self {
        // SAFETY: see above.
        Self(unsafe { &raw mut (*counters).scratch })
    }

    /// Writes a number and reads it again.
    #[inline(always)]
    fn forget(self, place: u64) -> u64 {
        // SAFETY: see above.
        unsafe {
            (&raw mut (*self.0).place).write_volatile(place);
            (*self.0).place
        }
    }

    /// Hands the rules that are left to the function.
    #[inline(always)]
    fn keep(self, left: Set) {
        // SAFETY: see above.
        unsafe { (&raw mut (*self.0).left).cast::<Set>().write(left) }
    }

    #[inline(always)]
    fn left(self) -> &'static mut Set {
        // SAFETY: see above.
        unsafe { &mut *(&raw mut (*self.0).left).cast::<Set>() }
    }
}

/// The rules that are left.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Set(Bits);

impl Set {
    #[inline(always)]
    fn is_empty(&self) -> bool {
        let Self([a, b, c, d]) = *self;
        a | b | c | d == 0
    }

    /// Keeps what is in a row of a dimension.
    #[inline(always)]
    fn keep(&mut self, row: Option<&Bits>) {
        // Every index has its row; the verifier does not know that.
        let Some(row) = row else { return };
        for (mine, its) in self.0.iter_mut().zip(row) {
            *mine &= its;
        }
    }

    #[inline(always)]
    fn meets(&self, other: &Bits) -> bool {
        let Self([a, b, c, d]) = *self;
        a & other[0] | b & other[1] | c & other[2] | d & other[3] != 0
    }

    /// Removes the first rule and returns its bit.
    #[inline(always)]
    fn take_first(&mut self) -> Option<usize> {
        let word = match self.0 {
            [first, ..] if first != 0 => 0,
            [_, second, ..] if second != 0 => 1,
            [_, _, third, _] if third != 0 => 2,
            [_, _, _, fourth] if fourth != 0 => 3,
            _ => return None,
        };
        let bits = &mut self.0[word];
        let bit = word * 64 + bits.trailing_zeros() as usize;
        *bits &= bits.wrapping_sub(1);
        Some(opaque(bit))
    }

    /// Removes rules.
    #[inline(always)]
    fn remove(&mut self, rules: &Bits) {
        for (mine, its) in self.0.iter_mut().zip(rules) {
            *mine &= !its;
        }
    }
}

/// Everything but addresses and payload: array lookups.
#[inline(always)]
fn by_fields(packet: &XdpPacket, facts: &Facts, table: &Table, used: u32, left: &mut Set) {
    if used & (uses::SPORT | uses::DPORT) != 0 {
        let ports = key::ports(packet, facts);
        if used & uses::DPORT != 0 {
            left.keep(wide(&table.dport, ports.map(|(_, port)| port)));
        }
        if used & uses::SPORT != 0 {
            left.keep(wide(&table.sport, ports.map(|(port, _)| port)));
        }
        // Most packets have no rule's ports.
        if left.is_empty() {
            return;
        }
    }
    if used & uses::LEN != 0 {
        left.keep(wide(&table.len, key::len(packet, facts)));
    }
    if used & uses::FLAGS != 0 {
        left.keep(table.flags.get(key::flags(packet, facts).map_or(ABSENT, usize::from)));
    }
    if used & uses::ICMP != 0 {
        let (kind, code) = match key::icmp(packet, facts) {
            Some((kind, code)) => (kind as usize, code as usize),
            None => (ABSENT, ABSENT),
        };
        left.keep(table.icmp_type.get(kind));
        left.keep(table.icmp_code.get(code));
    }
    if used & (uses::TTL | uses::DSCP | uses::FRAGMENT) != 0 {
        let row = |value: Option<u8>| packet.opaque(value.unwrap_or(0) as usize) & 0xff;
        if used & uses::TTL != 0 {
            left.keep(table.ttl.get(row(key::ttl(packet, facts))));
        }
        if used & uses::DSCP != 0 {
            left.keep(table.dscp.get(row(key::dscp(packet, facts))));
        }
        if used & uses::FRAGMENT != 0 {
            left.keep(table.fragment.get(row(key::fragment(packet, facts))));
        }
    }
}

#[inline(always)]
fn wide(dimension: &Wide, value: Option<u16>) -> Option<&Bits> {
    let class = match value {
        Some(value) => *dimension.class.get(opaque(value as usize))? as usize,
        None => 0,
    };
    dimension.rules.get(opaque(class))
}

/// Returns its argument, of which the compiler knows nothing any more: what is compared with a
/// bound then is what is used, and no copy of it of another width.
#[inline(always)]
fn opaque(mut value: usize) -> usize {
    // SAFETY: one instruction on a register.
    unsafe { asm!("{0} &= 65535", inout(reg) value, options(pure, nomem, nostack)) };
    value
}

/// Prefixes: a search among interval ends for each dimension that a rule in question asks for.
#[inline(always)]
fn by_prefixes(packet: &XdpPacket, table: &Table, facts: &Facts, left: &mut Set) {
    let [src4, dst4, src6, dst6] = &table.prefixed;
    let (src, dst) = if matches!(facts.family, Family::V6) { (src6, dst6) } else { (src4, dst4) };
    if !(left.meets(src) | left.meets(dst)) {
        return;
    }
    let l3 = packet.opaque(facts.l3 as usize);
    let Some(ends) = key::addresses(packet, facts.family, l3) else { return };
    // Destinations first: they leave less.
    if matches!(facts.family, Family::V6) {
        if left.meets(dst) {
            left.keep(interval6(&table.dst6, table.bounds[3], ends.1));
        }
        if left.meets(src) {
            left.keep(interval6(&table.src6, table.bounds[2], ends.0));
        }
    } else {
        if left.meets(dst) {
            left.keep(interval4(&table.dst4, table.bounds[1], ends.1.1));
        }
        if left.meets(src) {
            left.keep(interval4(&table.src4, table.bounds[0], ends.0.1));
        }
    }
}

/// Payload patterns, those of the rules in question.
#[inline(always)]
fn by_payload(packet: &XdpPacket, table: &Table, facts: &Facts, left: &mut Set) {
    let (Some(payload), Some(len)) = (key::payload(packet, facts), key::len(packet, facts)) else {
        return left.remove(&table.patterned);
    };
    let (payload, end) = (payload as u32, key::end_of_ip(facts, len));
    for i in 0..PATTERNS {
        let Some(pattern) = table.patterns.get(i) else { return };
        if !left.meets(&pattern.rules) {
            continue;
        }
        let at = payload + pattern.offset;
        let inside = at + pattern.bytes <= end;
        if !inside || word(packet, at, end) & pattern.mask != pattern.value {
            left.remove(&pattern.rules);
        }
    }
}

/// Returns eight bytes of the packet, the first in the highest bits; what is behind its end is
/// anything. The caller has seen to it that at least one byte is inside.
#[inline(always)]
fn word(packet: &XdpPacket, at: u32, end: u32) -> u64 {
    let at = at & 0x7fff;
    if let Some(word) = key::word_at(packet, at as usize) {
        return word;
    }
    // The packet ends within the word, or goes on in another buffer.
    let mut bytes = 0u64;
    // 1 to 8 by arithmetic, as in `sample.rs`.
    let count = if end - at >= 8 { 7 } else { (end - at - 1) & 7 } + 1;
    // SAFETY: eight bytes on the stack, of which at most eight are written; the helper checks the
    // packet's length.
    unsafe { bpf_xdp_load_bytes(packet.context(), at, (&raw mut bytes).cast(), count) };
    u64::from_be(bytes)
}

/// Where rules are tried.
#[derive(Clone, Copy)]
struct Court {
    table: &'static Table,
    counters: *mut Counters,
    now: u64,
}

/// Tries the rules that are left, in order.
#[inline(always)]
fn judge(court: Court, left: &mut Set, wire: u32, half: u32) -> Outcome {
    let mut outcome = Outcome::NOTHING;
    // Nearly always the first rule decides.
    if !try_next(court, left, wire, &mut outcome) || left.is_empty() {
        return outcome;
    }
    let mut trial = Trial { now: court.now, wire, half, outcome: outcome.to_bits(), _pad: 0 };
    // SAFETY: the callback has the signature that the helper calls, and the context outlives it.
    unsafe { bpf_loop(RULES as u32, try_one as *mut c_void, (&raw mut trial).cast(), 0) };
    Outcome::from_bits(trial.outcome)
}

/// What the callback of the loop in [`judge`] works on.
#[repr(C)]
struct Trial {
    now: u64,
    wire: u32,
    half: u32,
    /// See [`Outcome::to_bits`].
    outcome: u32,
    _pad: u32,
}

/// One step of the loop in [`judge`]; returns 1 to end it. The verifier checks it once, where it
/// would follow every turn of a plain loop.
unsafe extern "C" fn try_one(_turn: u32, trial: *mut c_void) -> i64 {
    let trial = trial.cast::<Trial>();
    // SAFETY: `judge` passes its own `Trial`.
    let Trial { now, wire, half, outcome, _pad } = unsafe { trial.read() };
    let Some(counters) = maps::RULE_COUNTERS.get_ptr_mut(0) else { return 1 };
    let Some(table) = maps::RULES.get(half) else { return 1 };
    // SAFETY: from the lookup.
    let left = unsafe { &mut *(&raw mut (*counters).scratch.left).cast::<Set>() };
    let mut outcome = Outcome::from_bits(outcome);
    let goes_on = try_next(Court { table, counters, now }, left, wire, &mut outcome);
    // SAFETY: as above.
    unsafe { (*trial).outcome = outcome.to_bits() };
    if goes_on { 0 } else { 1 }
}

/// Tries the first of the rules that are left and removes it from them; returns whether the next
/// is to be tried.
#[inline(always)]
fn try_next(court: Court, left: &mut Set, wire: u32, outcome: &mut Outcome) -> bool {
    let Some(bit) = left.take_first() else { return false };
    let Some(slot) = court.table.slots.get(bit) else { return false };
    let slot = *slot as usize;
    let Some(state) = maps::RULE_STATES.get_ptr_mut(slot as u32) else { return false };
    // SAFETY: `state` comes from a lookup, and `slot` is below the number of slots. The counters
    // are this CPU's own.
    let did = unsafe {
        let counter = (&raw mut (*court.counters).slots).cast::<Counter>().add(slot);
        apply(&mut *state, &mut *counter, wire, court.now)
    };
    let captured = outcome.rule & CAPTURED;
    let rule = (slot as u16 + 1) | captured;
    match did {
        Did::Nothing => return true,
        Did::Counted => {
            if outcome.rule == captured {
                outcome.rule = rule;
            }
            return true;
        }
        Did::Captured => {
            outcome.rule |= CAPTURED;
            return true;
        }
        Did::Passed => outcome.rule = rule,
        Did::Challenges => *outcome = Outcome { reason: CHALLENGED, rule },
        Did::Drops(reason) => *outcome = Outcome { reason: reason as u8, rule },
    }
    false
}

/// What a rule did to a packet.
enum Did {
    /// It has expired.
    Nothing,
    /// Counted it; the next rule is tried.
    Counted,
    /// Has it recorded; the next rule is tried.
    Captured,
    /// Let it pass within its rate.
    Passed,
    /// Has the guard answer it.
    Challenges,
    /// Says that it is to be dropped.
    Drops(DropReason),
}

#[inline(always)]
fn apply(state: &mut State, counter: &mut Counter, wire: u32, now: u64) -> Did {
    if now >= state.expires {
        return Did::Nothing;
    }
    // Once a jiffy, not once a packet: the line stays shared between CPUs.
    if state.last_match != now as u32 {
        state.last_match = now as u32;
    }
    counter.packets += 1;
    counter.bytes += wire as u64;
    let reason = match state.action {
        action::COUNT => return Did::Counted,
        action::DROP => DropReason::Rule,
        action::CHALLENGE => return Did::Challenges,
        action::CAPTURE => return Did::Captured,
        kind => {
            let cost = if kind == action::LIMIT_PACKETS { 1 } else { wire as u64 };
            if is_within_state(state, &mut counter.lease, cost * TOKEN, now) {
                return Did::Passed;
            }
            DropReason::RateLimit
        }
    };
    Did::Drops(reason)
}
