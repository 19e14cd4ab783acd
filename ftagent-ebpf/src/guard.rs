//! The TCP guard: cookies for SYNs, and the socket table for everything else that is for this host.
//! See `ftagent_common::guard` for what the daemon tells it.
//!
//! There is no table of ours: what nobody listens for, the kernel would answer with a reset or an
//! unreachable, and the socket table knows that before it does.
#![expect(unsafe_code, reason = "asks the kernel for sockets, and rewrites a SYN in place")]

use core::ffi::c_void;

use aya_ebpf::{
    bindings::{bpf_sock, bpf_sock_tuple, xdp_md},
    helpers::generated::{
        bpf_fib_lookup, bpf_loop, bpf_sk_lookup_udp, bpf_sk_release, bpf_skc_lookup_tcp, bpf_tcp_check_syncookie,
        bpf_tcp_gen_syncookie, bpf_xdp_adjust_tail, bpf_xdp_get_buff_len, bpf_xdp_load_bytes, bpf_xdp_store_bytes,
    },
};
use ftagent_common::{
    DropReason,
    abi::features,
    guard::{
        ANSWER_MAX, Answer, Guard, Offer, OwnAddress, SCRATCH_BYTES, TCP_HEADER_MAX, WALK_STEPS, Walk, flags, fold,
        port, socket, sum, timestamp,
    },
    parse::{Facts, Family},
    rules::TOKEN,
};

use self::{
    ends::{Tuple, dport, ends, is_own},
    route::Route,
};
use crate::{maps, rules::rate::is_within_state};

mod ends;
mod route;
mod told;

const TCP: u8 = 6;
const UDP: u8 = 17;
const SYN_FLAGS: u8 = 0x02;
/// FIN, SYN, RST and ACK: what makes a SYN a SYN.
const SYN_MASK: u8 = 0x17;
/// `TCP_LISTEN` and `TCP_ESTABLISHED` (include/net/tcp_states.h).
const LISTEN: u32 = 10;
/// `TCP_NEW_SYN_RECV`, likewise.
const NEW_SYN_RECV: u32 = 12;
const ESTABLISHED: u32 = 1;
/// `BPF_F_CURRENT_NETNS`: the namespace of the device.
const THIS_NETNS: u64 = u64::MAX;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// `BPF_FIB_LOOKUP_OUTPUT`: the way out of this device, whether or not this host forwards.
const FIB_OUTPUT: u32 = 2;
const FIB_SUCCESS: i64 = 0;
const FIB_NO_NEIGHBOUR: i64 = 7;

/// What the guard decided.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Decision {
    Pass = 0,
    /// The frame is a SYN-ACK now, to be sent back.
    Answer = 1,
    OutOfState = 2,
    ClosedPort = 3,
    QueueFull = 4,
}

impl Decision {
    #[inline(always)]
    fn from_bits(bits: u32) -> Self {
        match bits {
            1 => Self::Answer,
            2 => Self::OutOfState,
            3 => Self::ClosedPort,
            4 => Self::QueueFull,
            _ => Self::Pass,
        }
    }

    /// Returns why a packet is dropped; `None` where it is not.
    #[inline(always)]
    pub fn reason(self) -> Option<DropReason> {
        match self {
            Self::OutOfState => Some(DropReason::OutOfState),
            Self::ClosedPort => Some(DropReason::ClosedPort),
            Self::QueueFull => Some(DropReason::QueueFull),
            Self::Pass | Self::Answer => None,
        }
    }
}

/// Where the headers are, as it crosses a call.
#[derive(Clone, Copy)]
struct Place {
    l3: u32,
    l4: u32,
    v6: bool,
}

impl Place {
    #[inline(always)]
    fn to_bits(self) -> u64 {
        (self.l3 as u64) << 32 | (self.l4 as u64) << 8 | self.v6 as u64
    }

    // Masks bound the offsets for the verifier; the parser has none near them.
    #[inline(always)]
    fn from_bits(bits: u64) -> Self {
        Self { l3: (bits >> 32) as u32 & 0x7fff, l4: (bits >> 8) as u32 & 0x7fff, v6: bits & 1 != 0 }
    }

    /// Returns where the headers of an answer are: it has no options of IP and no extension headers.
    #[inline(always)]
    fn of_answer(self) -> Self {
        Self { l4: self.l3 + if self.v6 { 40 } else { 20 }, ..self }
    }
}

/// What crosses the call beside a [`Place`]: a rule wants a SYN to be answered, armed or not.
const CHALLENGED: u64 = 2;
/// What is armed for the port counts: somebody is there who renews it.
const LIVE: u64 = 4;

/// Decides about a packet. The frame is changed where the decision is [`Decision::Answer`]: pointers
/// into it are no longer valid then. `challenged`: a rule wants a SYN to be answered.
#[inline(always)]
pub fn decide(ctx: *mut xdp_md, facts: &Facts, challenged: bool) -> Decision {
    let Some(guard) = maps::guard() else { return Decision::Pass };
    if facts.l4 == 0 || matches!(facts.family, Family::None) {
        return Decision::Pass;
    }
    let armed = if maps::jiffies() < guard.expires { guard.flags & flags::ARMED } else { 0 };
    if armed == 0 && !challenged {
        return Decision::Pass;
    }
    let place = Place { l3: facts.l3 as u32, l4: facts.l4 as u32, v6: matches!(facts.family, Family::V6) };
    let live = armed & (flags::SYN | flags::STATE) != 0;
    // Few registers are left here: the functions look for themselves whose address it is.
    if facts.proto == TCP && (live || challenged) {
        let more = if live { LIVE } else { 0 } | if challenged { CHALLENGED } else { 0 };
        return Decision::from_bits(ftagent_guard_tcp(ctx, place.to_bits() | more));
    }
    if facts.proto == UDP && armed & flags::UDP != 0 {
        return Decision::from_bits(ftagent_guard_udp(ctx, place.to_bits()));
    }
    Decision::Pass
}

/// Returns whether a SYN may be answered: in place, so that nothing is left of it afterwards.
#[inline(always)]
pub fn may_answer(challenged: bool) -> bool {
    let live = |guard: &Guard| guard.flags & (flags::SYN | flags::STATE) != 0 && maps::jiffies() < guard.expires;
    maps::has(features::GUARD) && (challenged || maps::guard().is_some_and(live))
}

/// Returns what the socket table says of a packet: one of [`socket`].
#[inline(always)]
pub fn ask(ctx: *mut xdp_md, facts: &Facts) -> u8 {
    if facts.l4 == 0 || maps::guard().is_none_or(|guard| guard.flags & flags::ORACLE == 0) {
        return socket::UNKNOWN;
    }
    if maps::is_replay() {
        return maps::told_socket();
    }
    let place = Place { l3: facts.l3 as u32, l4: facts.l4 as u32, v6: matches!(facts.family, Family::V6) };
    (match facts.proto {
        TCP => ftagent_ask_tcp(ctx, place.to_bits()),
        UDP => ftagent_ask_udp(ctx, place.to_bits()),
        _ => 0,
    }) as u8
}

/// Looks a TCP socket up: a listener, a connection, one that is closing, or a half-open request.
#[inline(always)]
fn tcp_socket(ctx: *mut xdp_md, place: Place, tuple: &mut Tuple) -> *mut bpf_sock {
    let bytes = Tuple::bytes(place);
    // SAFETY: the tuple is as long as said, and the context the kernel's.
    unsafe { bpf_skc_lookup_tcp(ctx.cast(), (&raw mut *tuple).cast::<bpf_sock_tuple>(), bytes, THIS_NETNS, 0) }
}

#[inline(always)]
fn udp_socket(ctx: *mut xdp_md, place: Place, tuple: &mut Tuple) -> *mut bpf_sock {
    let bytes = Tuple::bytes(place);
    // SAFETY: as above.
    unsafe { bpf_sk_lookup_udp(ctx.cast(), (&raw mut *tuple).cast::<bpf_sock_tuple>(), bytes, THIS_NETNS, 0) }
}

// Global functions, which the verifier checks once each: TCP and UDP lookups return sockets of
// different kinds, which may not share an instruction.

/// Reads the state of a socket and lets go of it; 0, which is no state, where there is none. It is
/// inlined: each caller has instructions of its own.
#[inline(always)]
fn state_of(sk: *mut bpf_sock) -> u32 {
    if sk.is_null() {
        return 0;
    }
    // SAFETY: not null, and released once.
    unsafe {
        let state = (*sk).state;
        bpf_sk_release(sk.cast());
        state
    }
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn ftagent_ask_tcp(ctx: *mut xdp_md, place: u64) -> u32 {
    let (place, mut tuple) = (Place::from_bits(place), Tuple::default());
    if !ends(ctx, place, &mut tuple) {
        return socket::UNKNOWN as u32;
    }
    (match state_of(tcp_socket(ctx, place, &mut tuple)) {
        0 => socket::NONE,
        LISTEN => socket::LISTENER,
        NEW_SYN_RECV => socket::HALF_OPEN,
        _ => socket::CONNECTED,
    }) as u32
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn ftagent_ask_udp(ctx: *mut xdp_md, place: u64) -> u32 {
    let (place, mut tuple) = (Place::from_bits(place), Tuple::default());
    if !ends(ctx, place, &mut tuple) {
        return socket::UNKNOWN as u32;
    }
    (match state_of(udp_socket(ctx, place, &mut tuple)) {
        0 => socket::NONE,
        ESTABLISHED => socket::CONNECTED,
        _ => socket::UNCONNECTED,
    }) as u32
}

/// UDP to this host: dropped where the port is closed.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn ftagent_guard_udp(ctx: *mut xdp_md, place: u64) -> u32 {
    let (place, mut tuple) = (Place::from_bits(place), Tuple::default());
    if !ends(ctx, place, &mut tuple)
        || maps::guard_port(dport(place, &tuple)) & port::UDP == 0
        || !is_own(place, &tuple)
    {
        return Decision::Pass as u32;
    }
    if maps::is_replay() {
        return told::udp() as u32;
    }
    let is_open = state_of(udp_socket(ctx, place, &mut tuple)) != 0;
    (if is_open { Decision::Pass } else { Decision::ClosedPort }) as u32
}

/// TCP to this host.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn ftagent_guard_tcp(ctx: *mut xdp_md, place: u64) -> u32 {
    let (live, challenged) = (place & LIVE != 0, place & CHALLENGED != 0);
    let (place, mut tuple) = (Place::from_bits(place), Tuple::default());
    if !ends(ctx, place, &mut tuple) {
        return Decision::Pass as u32;
    }
    let mut armed = maps::guard_port(dport(place, &tuple));
    if !live {
        armed &= !(port::SYN | port::STATE);
    }
    if challenged {
        armed |= port::SYN;
    }
    if armed & (port::SYN | port::STATE) == 0 || !is_own(place, &tuple) {
        return Decision::Pass as u32;
    }
    let Some(header) = maps::guard_scratch() else { return Decision::Pass as u32 };
    if maps::is_replay() {
        return if header.read(ctx, place) { told::tcp(header, armed) } else { Decision::Pass } as u32;
    }
    let sk = tcp_socket(ctx, place, &mut tuple);
    if sk.is_null() {
        return if armed & port::STATE != 0 { Decision::OutOfState } else { Decision::Pass } as u32;
    }
    // SAFETY: not null; released below, once on every path.
    let state = unsafe { (*sk).state };
    let mut cookie = NO_COOKIE;
    let mut decision = Decision::Pass;
    // The headers are read for a listener alone: a connection's segment passes whatever they say.
    if state == LISTEN && header.read(ctx, place) {
        if header.is_syn() {
            if armed & port::SYN != 0 {
                cookie = header.cookie(sk, place);
            }
        } else if armed & port::STATE != 0 && !header.is_accepted(sk, place) {
            decision = Decision::OutOfState;
        }
    }
    // SAFETY: see above.
    unsafe { bpf_sk_release(sk.cast()) };
    if cookie == FULL {
        return Decision::QueueFull as u32;
    }
    if cookie >= 0 {
        decision = header.answer(ctx, place.of_answer(), cookie as u32, armed);
    }
    decision as u32
}

/// No cookie is wanted: the listener's queue has room.
const NO_COOKIE: i64 = -1;
/// The listener takes no more connections.
const FULL: i64 = -2;

/// Copies of the headers and what is made of them. In a map, because the stack of a program and of
/// what it calls is 512 bytes in all.
#[repr(C)]
pub struct Scratch {
    ip: [u8; 40],
    tcp: [u8; 64],
    answer: [u8; ANSWER_MAX],
    route: Route,
    own: OwnAddress,
    macs: [u8; 12],
    /// Bytes of the TCP header.
    tcp_bytes: u32,
    /// What the options of the TCP header say. Here, the verifier knows nothing of it and follows
    /// one way where it follows each combination of options on the stack.
    walk: Walk,
    /// This CPU's lease of the tokens for answers.
    answers: u64,
}

const _: () = assert!(size_of::<Scratch>() == SCRATCH_BYTES);

impl Scratch {
    #[inline(always)]
    fn read(&mut self, ctx: *mut xdp_md, place: Place) -> bool {
        // SAFETY: the buffers are as long as said; the helper checks the packet's length.
        unsafe {
            let ip = if place.v6 { 40 } else { 20 };
            if bpf_xdp_load_bytes(ctx, place.l3, (&raw mut self.ip).cast(), ip) != 0
                || bpf_xdp_load_bytes(ctx, place.l4, (&raw mut self.tcp).cast(), 20) != 0
            {
                return false;
            }
            // 20 to 60 by arithmetic, see `ftagent_sample`.
            let words = maps::opaque((self.tcp[12] >> 4) as u32) & 15;
            if words < 5 {
                return false;
            }
            self.tcp_bytes = words * 4;
            if words > 5 {
                let more = ((maps::opaque(words * 4 - 20).wrapping_sub(1)) & 63) + 1;
                let more = if more > 40 { 40 } else { more };
                return bpf_xdp_load_bytes(ctx, place.l4 + 20, (&raw mut self.tcp).cast::<u8>().add(20).cast(), more)
                    == 0;
            }
        }
        true
    }

    #[inline(always)]
    fn is_syn(&self) -> bool {
        self.tcp[13] & SYN_MASK == SYN_FLAGS
    }

    /// Asks the listener for a cookie; the largest segment that it stands for is in it.
    #[inline(always)]
    fn cookie(&mut self, sk: *mut bpf_sock, place: Place) -> i64 {
        let bytes = self.length();
        let (ip, tcp) = ((&raw mut self.ip), (&raw mut self.tcp));
        // SAFETY: the buffers are at least as long as said.
        let cookie =
            unsafe { bpf_tcp_gen_syncookie(sk.cast(), ip.cast(), if place.v6 { 40 } else { 20 }, tcp.cast(), bytes) };
        if cookie >= 0 {
            return cookie & 0xffff_ffff;
        }
        const ENOENT: i64 = -2;
        let always = maps::guard().is_some_and(|guard| guard.flags & flags::ALWAYS != 0);
        if cookie == ENOENT && always { FULL } else { NO_COOKIE }
    }

    /// Returns whether a listener accepts this segment: it carries a cookie that it gave out.
    #[inline(always)]
    fn is_accepted(&mut self, sk: *mut bpf_sock, place: Place) -> bool {
        let (ip, tcp) = ((&raw mut self.ip), (&raw mut self.tcp));
        // SAFETY: as above. The helper reads the fixed part of the header only.
        unsafe { bpf_tcp_check_syncookie(sk.cast(), ip.cast(), if place.v6 { 40 } else { 20 }, tcp.cast(), 20) == 0 }
    }

    /// The length of the TCP header, as the verifier believes it: 20 to 60.
    #[inline(always)]
    fn length(&self) -> u32 {
        let bytes = maps::opaque(self.tcp_bytes) & 63;
        if bytes < 20 || bytes > TCP_HEADER_MAX as u32 { 20 } else { bytes }
    }

    /// Returns whether there may be one more answer, and takes its token.
    #[inline(always)]
    fn may_answer(&mut self) -> bool {
        maps::guard_answers().is_some_and(|pool| is_within_state(pool, &mut self.answers, TOKEN, maps::jiffies()))
    }

    /// Reads what a SYN offers. `bpf_loop` (kernel 5.17), whose body the verifier checks once.
    #[inline(always)]
    fn read_options(&mut self) {
        self.walk = Walk::new(self.tcp_bytes);
        // SAFETY: the callback has the signature that the helper calls, and looks at no context.
        unsafe { bpf_loop(WALK_STEPS, step as *mut c_void, core::ptr::null_mut(), 0) };
    }

    /// Turns the frame into a SYN-ACK with the cookie.
    #[inline(always)]
    fn answer(&mut self, ctx: *mut xdp_md, place: Place, cookie: u32, armed: u32) -> Decision {
        self.read_options();
        // The peer wants every segment signed, and the kernel has the key.
        if self.walk.offer.signed != 0 {
            return Decision::Pass;
        }
        if !self.may_answer() {
            return Decision::QueueFull;
        }
        let Some(guard) = maps::guard() else { return Decision::Pass };
        if !self.way_back(ctx, place, guard) {
            return Decision::Pass;
        }
        let answer = self.compose(cookie, armed, place, guard);
        self.answer = [0; ANSWER_MAX];
        let bytes = if answer.write(&mut self.answer) == ANSWER_MAX { ANSWER_MAX as u32 } else { 24 };
        self.checksums(place, bytes);
        let ip_bytes = if place.v6 { 40 } else { 20 };
        // SAFETY: the buffers are as long as said; the helpers check the packet's length. What fails
        // before the first store leaves the packet as it was but for its tail, which is padding or
        // data of a SYN: the listener drops it as it would any SYN in a flood.
        unsafe {
            let wire = bpf_xdp_get_buff_len(ctx) as i32;
            let wanted = (place.l4 + bytes) as i32;
            if bpf_xdp_adjust_tail(ctx, wanted - wire) != 0 {
                return Decision::Pass;
            }
            let stored = bpf_xdp_store_bytes(ctx, 0, (&raw mut self.macs).cast(), 12) == 0
                && bpf_xdp_store_bytes(ctx, place.l3, (&raw mut self.ip).cast(), ip_bytes) == 0
                && if bytes == 24 {
                    bpf_xdp_store_bytes(ctx, place.l4, (&raw mut self.answer).cast(), 24) == 0
                } else {
                    bpf_xdp_store_bytes(ctx, place.l4, (&raw mut self.answer).cast(), ANSWER_MAX as u32) == 0
                };
            if stored { Decision::Answer } else { Decision::QueueFull }
        }
    }

    /// What the answer says.
    #[inline(always)]
    fn compose(&self, cookie: u32, armed: u32, place: Place, guard: &Guard) -> Answer {
        let tcp = &self.tcp;
        let seq = u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]);
        let scale = (armed >> port::SCALE_SHIFT) & 15;
        let mut answer = Answer {
            ports: [tcp[0], tcp[1], tcp[2], tcp[3]],
            seq: cookie,
            ack: seq.wrapping_add(1),
            mss: if place.v6 { guard.mss6 } else { guard.mss4 },
            full: false,
            offer: Offer::NOTHING,
            stamp: 0,
            scale: scale.wrapping_sub(1) as u8,
        };
        if guard.flags & flags::TIMESTAMPS != 0 && scale != 0 {
            answer.offer = self.walk.offer;
            answer.full = answer.offer.has_timestamp != 0;
            answer.stamp = timestamp((maps::now_ns() / 1_000_000) as u32, answer.offer);
        }
        answer
    }

    /// Turns the IP header around and fills both checksums in.
    #[inline(always)]
    fn checksums(&mut self, place: Place, bytes: u32) {
        let (ip, tcp) = (&mut self.ip, &mut self.answer);
        let length = bytes as u16;
        let pseudo;
        if place.v6 {
            let mut i = 0;
            while i < 16 {
                (ip[8 + i], ip[24 + i]) = (ip[24 + i], ip[8 + i]);
                i += 1;
            }
            // No flow label, no traffic class; hop limit 64.
            [ip[0], ip[1], ip[2], ip[3]] = [0x60, 0, 0, 0];
            [ip[4], ip[5]] = length.to_be_bytes();
            [ip[6], ip[7]] = [TCP, 64];
            pseudo = sum(&ip[8..40]);
        } else {
            let mut i = 0;
            while i < 4 {
                (ip[12 + i], ip[16 + i]) = (ip[16 + i], ip[12 + i]);
                i += 1;
            }
            // Identification 0 with don't-fragment (RFC 6864), TTL 64.
            [ip[0], ip[1]] = [0x45, 0];
            [ip[2], ip[3]] = (length + 20).to_be_bytes();
            [ip[4], ip[5], ip[6], ip[7]] = [0, 0, 0x40, 0];
            [ip[8], ip[10], ip[11]] = [64, 0, 0];
            [ip[10], ip[11]] = fold(sum(&ip[..20])).to_be_bytes();
            pseudo = sum(&ip[12..20]);
        }
        // What is behind a short answer is zero and adds nothing.
        let total = pseudo + TCP as u64 + length as u64 + sum(tcp);
        [tcp[16], tcp[17]] = fold(total).to_be_bytes();
    }

    /// Notes the Ethernet addresses of the way back, destination first; returns whether it is by
    /// this device.
    #[inline(always)]
    fn way_back(&mut self, ctx: *mut xdp_md, place: Place, guard: &Guard) -> bool {
        // SAFETY: the buffer is 12 bytes; the helper checks the packet's length.
        if unsafe { bpf_xdp_load_bytes(ctx, 0, (&raw mut self.macs).cast(), 12) } != 0 {
            return false;
        }
        let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5] = self.macs;
        self.macs = [s0, s1, s2, s3, s4, s5, d0, d1, d2, d3, d4, d5];
        // A tagged frame came by a device above this one, which the table knows under another name.
        if guard.flags & flags::ROUTE == 0 || place.l3 != 14 {
            return true;
        }
        // SAFETY: the context is the kernel's.
        let device = unsafe { (*ctx).ingress_ifindex };
        self.route.back(&self.ip, place, device);
        // SAFETY: `struct bpf_fib_lookup` is 64 bytes, and so is `Route`.
        let found =
            unsafe { bpf_fib_lookup(ctx.cast(), (&raw mut self.route).cast(), size_of::<Route>() as i32, FIB_OUTPUT) };
        if found == FIB_SUCCESS {
            let ([d0, d1, d2, d3, d4, d5], [s0, s1, s2, s3, s4, s5]) = (self.route.dmac, self.route.smac);
            self.macs = [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5];
            return self.route.ifindex == device;
        }
        found == FIB_NO_NEIGHBOUR
    }
}

/// One step of [`Scratch::read_options`]; returns 1 to end the loop.
unsafe extern "C" fn step(_: u32, _: *mut c_void) -> i64 {
    let Some(Scratch { walk, tcp, .. }) = maps::guard_scratch() else { return 1 };
    !walk.step(tcp) as i64
}
