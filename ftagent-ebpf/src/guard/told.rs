//! What the guard decides in replay, where there are no sockets: whoever replays says beforehand what
//! the lookup would find and whether the listener has room (`Clock::socket`). It stands for the kernel's
//! lookup, `bpf_tcp_gen_syncookie` and `bpf_tcp_check_syncookie`, and no frame is rewritten; which ports
//! and addresses are armed, and how many answers may be given, is decided by the code that a card runs.

use ftagent_common::guard::{flags, port, socket};

use super::{Decision, Scratch};
use crate::maps;

/// Decides about a TCP segment; `armed`: the bits of its port.
#[inline(always)]
pub fn tcp(scratch: &mut Scratch, armed: u32) -> Decision {
    let (is_syn, holds) = (scratch.is_syn(), armed & port::STATE != 0);
    match maps::told_socket() {
        socket::NONE if holds => Decision::OutOfState,
        socket::LISTENER if is_syn && armed & port::SYN != 0 => {
            let always = maps::guard().is_some_and(|guard| guard.flags & flags::ALWAYS != 0);
            if maps::told_room() && !always {
                Decision::Pass
            } else if scratch.may_answer() {
                Decision::Answer
            } else {
                Decision::QueueFull
            }
        }
        socket::LISTENER if !is_syn && holds => Decision::OutOfState,
        _ => Decision::Pass,
    }
}

/// Decides about a datagram to a port that is armed.
#[inline(always)]
pub fn udp() -> Decision {
    if maps::told_socket() == socket::NONE { Decision::ClosedPort } else { Decision::Pass }
}
