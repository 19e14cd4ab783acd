//! What the guard decides in replay, where there are no sockets: whoever replays says beforehand what
//! the lookup would find (`Clock::socket`). What hangs on that is as on a card, but that no frame is
//! rewritten.

use ftagent_common::guard::{port, socket};

use super::{Decision, Scratch};
use crate::maps;

/// Decides about a TCP segment; `armed`: the bits of its port.
#[inline(always)]
pub fn tcp(scratch: &mut Scratch, is_syn: bool, armed: u32) -> Decision {
    let holds = armed & port::STATE != 0;
    match maps::told_socket() {
        socket::NONE if holds => Decision::OutOfState,
        socket::LISTENER if is_syn && armed & port::SYN != 0 => {
            if scratch.may_answer() {
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
