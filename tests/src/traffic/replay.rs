//! Puts captures onto an interface.

use std::{
    os::fd::AsRawFd as _,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::{
    errno::Errno,
    net::if_::if_nametoindex,
    sys::socket::{MsgFlags, send},
};

use super::{capture::Capture, sys::packet_socket};

/// How fast a capture is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// With the gaps between its timestamps; a timestamp before the one before it means at once.
    AsCaptured,
    /// Packets per second.
    Pps(u64),
    /// Without pause.
    FlatOut,
}

/// What became of a capture's packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Replayed {
    /// Packets sent.
    pub sent: u64,
    /// Their bytes, without FCS.
    pub bytes: u64,
    /// Packets longer than the interface's MTU allows, not sent.
    pub oversize: u64,
    /// Packets shorter than an Ethernet header, not sent.
    pub runts: u64,
    /// Of those sent, packets that the capture had cut: sent as they are, shorter than they were.
    pub cut: u64,
}

/// Sends a capture file out of an interface of the calling thread's network namespace.
///
/// # Errors
/// Where the file is broken (what came before was sent), or the interface is missing or down.
pub fn replay_capture(path: &Path, interface: &str, pace: Pace) -> Result<Replayed> {
    ensure!(pace != Pace::Pps(0), "a rate of 0 packets per second never ends");
    let ifindex = if_nametoindex(interface).with_context(|| format!("interface {interface}"))?;
    let socket = packet_socket(ifindex).with_context(|| format!("opening a packet socket on {interface}"))?;
    let mut capture = Capture::open(path)?;
    let (mut done, mut first, start) = (Replayed::default(), None, Instant::now());
    while let Some(packet) = capture.next_packet()? {
        if packet.bytes.len() < 14 {
            done.runts += 1;
            continue;
        }
        let first = *first.get_or_insert(packet.at);
        let due = match pace {
            Pace::AsCaptured => packet.at.saturating_sub(first),
            Pace::Pps(pps) => Duration::from_nanos((u128::from(done.sent) * 1_000_000_000 / u128::from(pps)) as u64),
            Pace::FlatOut => Duration::ZERO,
        };
        if let Some(early) = due.checked_sub(start.elapsed()) {
            thread::sleep(early);
        }
        match transmit(socket.as_raw_fd(), &packet.bytes) {
            Ok(()) => {
                done.sent += 1;
                done.bytes += packet.bytes.len() as u64;
                done.cut += u64::from((packet.bytes.len() as u32) < packet.wire);
            }
            Err(Errno::EMSGSIZE) => done.oversize += 1,
            Err(error) => bail!("sending packet {} of {} on {interface}: {error}", done.sent + 1, path.display()),
        }
    }
    Ok(done)
}

/// Sends a frame; waits while the interface's queue is full.
fn transmit(socket: i32, frame: &[u8]) -> nix::Result<()> {
    loop {
        match send(socket, frame, MsgFlags::empty()) {
            Ok(_) => return Ok(()),
            Err(Errno::ENOBUFS | Errno::EAGAIN | Errno::EINTR) => thread::yield_now(),
            Err(error) => return Err(error),
        }
    }
}
