//! The TCP guard: what the daemon tells the program, and the answer to a SYN.
//!
//! The answer is a SYN-ACK with a cookie of the kernel's own (`bpf_tcp_gen_syncookie`, kernel 5.3),
//! so that the listener accepts the ACK itself (`cookie_v4_check`, net/ipv4/syncookies.c) and nothing
//! of ours is in the connection afterwards.

use crate::rules::State;

/// Bits of [`Guard::flags`].
pub mod flags {
    /// Some port answers SYNs by cookies.
    pub const SYN: u32 = 1;
    /// Some port has its other segments looked up.
    pub const STATE: u32 = 1 << 1;
    /// Some UDP port is closed.
    pub const UDP: u32 = 1 << 2;
    /// `net.ipv4.tcp_timestamps` is 2: the kernel reads options back from a timestamp. With 1 it
    /// subtracts a secret offset that no program can know.
    pub const TIMESTAMPS: u32 = 1 << 3;
    /// `net.ipv4.tcp_syncookies` is 2: a listener that makes no cookie has a full accept queue.
    pub const ALWAYS: u32 = 1 << 4;
    /// The way back may not be the way in: ask the routing table.
    pub const ROUTE: u32 = 1 << 5;
    /// Samples carry what the socket table says of them.
    pub const ORACLE: u32 = 1 << 6;
    /// Anything that looks at packets beside samples.
    pub const ARMED: u32 = SYN | STATE | UDP;
}

/// Bits of a port's entry.
pub mod port {
    /// SYNs to it are answered by cookies.
    pub const SYN: u32 = 1;
    /// TCP segments to it without a socket are dropped, SYNs too.
    pub const STATE: u32 = 1 << 1;
    /// UDP to it without a socket is dropped.
    pub const UDP: u32 = 1 << 2;
    /// From here on: one more than the window scale that the kernel will choose for connections
    /// of its listener; 0 where that is not known.
    pub const SCALE_SHIFT: u32 = 8;
}

/// What the daemon tells the guard: one entry of an mmapable array. It fills a line of cache; under a
/// flood the program writes to it a hundred times a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Guard {
    /// See [`flags`].
    pub flags: u32,
    /// The largest segment that this node takes, IPv4.
    pub mss4: u16,
    /// The same, IPv6.
    pub mss6: u16,
    /// The jiffy from which nothing is armed any more: the daemon may have died.
    pub expires: u64,
    /// The tokens for SYN-ACKs, [`TOKEN`](crate::rules::TOKEN) each, as a rule that limits packets
    /// has them: one pool for all CPUs. A SYN for which there is none is dropped: answers must not
    /// fill the link.
    pub answers: State,
}

const _: () = assert!(size_of::<Guard>() == 64);

/// An address as a key: IPv4 in `::ffff:0:0/96` (RFC 4291, 2.5.5.2), host byte order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct OwnAddress {
    /// Upper half.
    pub high: u64,
    /// Lower half.
    pub low: u64,
}

impl OwnAddress {
    /// Makes the key of an IPv4 address.
    #[inline(always)]
    pub const fn v4(address: u32) -> Self {
        Self { high: 0, low: 0xffff_0000_0000 | address as u64 }
    }
}

/// Bytes of the program's own memory for a packet: copies of headers.
pub const SCRATCH_BYTES: usize = 280;

/// Addresses that are this host's own at most.
pub const OWN_ADDRESSES: u32 = 1024;

/// What the socket table says of a packet.
pub mod socket {
    /// It was not asked, or cannot tell.
    pub const UNKNOWN: u8 = 0;
    /// There is no socket for it.
    pub const NONE: u8 = 1;
    /// A TCP listener.
    pub const LISTENER: u8 = 2;
    /// A TCP socket that is no listener, or a connected UDP socket.
    pub const CONNECTED: u8 = 3;
    /// A UDP socket that takes packets from anybody.
    pub const UNCONNECTED: u8 = 4;
    /// A request that a SYN made and nobody has confirmed yet: whoever forges the SYN makes it.
    pub const HALF_OPEN: u8 = 5;
}

/// What a SYN offers (RFC 9293, 3.2; RFC 7323; RFC 2018). No options in Rust's sense: where one is
/// absent, the compiler for BPF may leave registers undefined, which the verifier refuses to see
/// stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Offer {
    /// The window scale; [`NO_SCALE`] where it is not offered.
    pub scale: u32,
    /// Selective acknowledgements.
    pub sack: u32,
    /// Whether it has a timestamp.
    pub has_timestamp: u32,
    /// The timestamp to echo.
    pub timestamp: u32,
    /// Whether it is signed (RFC 2385, RFC 5925): then an answer has to be.
    pub signed: u32,
}

/// No window scale is offered.
pub const NO_SCALE: u32 = 15;

impl Offer {
    /// Offers nothing.
    pub const NOTHING: Self = Self { scale: NO_SCALE, sack: 0, has_timestamp: 0, timestamp: 0, signed: 0 };
}

/// The longest TCP header.
pub const TCP_HEADER_MAX: usize = 60;

/// A walk along the options of a TCP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Walk {
    /// What was found so far.
    pub offer: Offer,
    /// Where it is, bytes from the beginning of the header.
    pub at: u32,
    /// Bytes of the header.
    pub bytes: u32,
}

/// Options that a walk looks at: as many as fit where each takes two bytes.
pub const WALK_STEPS: u32 = 20;

impl Walk {
    /// Begins behind the fixed part of a header.
    #[inline(always)]
    pub const fn new(bytes: u32) -> Self {
        Self { offer: Offer::NOTHING, at: 20, bytes }
    }

    /// Reads one option; returns whether there may be another. What makes no sense ends the walk.
    #[inline(always)]
    pub fn step(&mut self, header: &[u8; 64]) -> bool {
        let at = self.at;
        if at >= self.bytes {
            return false;
        }
        let byte = |offset: u32| header[(at.wrapping_add(offset) & 63) as usize];
        let (kind, length) = (byte(0), byte(1) as u32);
        if kind == 1 {
            self.at = at + 1;
            return true;
        }
        if kind == 0 || length < 2 || at + length > self.bytes {
            return false;
        }
        match (kind, length) {
            (3, 3) => self.offer.scale = if byte(2) > 14 { 14 } else { byte(2) as u32 },
            (4, 2) => self.offer.sack = 1,
            (8, 10) => {
                self.offer.has_timestamp = 1;
                self.offer.timestamp = u32::from_be_bytes([byte(2), byte(3), byte(4), byte(5)]);
            }
            // MD5 and the authentication option.
            (19 | 29, _) => self.offer.signed = 1,
            _ => {}
        }
        self.at = at + length;
        true
    }
}

/// Returns the timestamp that carries the offer, at or before `now_ms`: later segments carry later
/// ones (`cookie_init_timestamp`, net/ipv4/syncookies.c: window scale in bits 0–3, SACK in 4, ECN in 5).
#[inline(always)]
pub fn timestamp(now_ms: u32, offer: Offer) -> u32 {
    let bits = (offer.scale & 15) | (offer.sack & 1) << 4;
    let stamp = now_ms & !63 | bits;
    if stamp > now_ms { stamp.wrapping_sub(64) } else { stamp }
}

/// The longest answer: TCP header with MSS, SACK, timestamps and window scale.
pub const ANSWER_MAX: usize = 40;

/// What an answer says.
#[derive(Clone, Copy, Debug)]
pub struct Answer {
    /// Ports as in the SYN, as they lie in the packet: source first.
    pub ports: [u8; 4],
    /// The cookie.
    pub seq: u32,
    /// One more than the SYN's sequence number.
    pub ack: u32,
    /// The largest segment that this node takes.
    pub mss: u16,
    /// Whether options are told beside the MSS: all that the SYN offers.
    pub full: bool,
    /// What the SYN offers.
    pub offer: Offer,
    /// See [`timestamp`].
    pub stamp: u32,
    /// The window scale to announce where the SYN offers one.
    pub scale: u8,
}

/// The window that an answer announces: one that a direct listener would, unscaled.
const WINDOW: u16 = 64_240;

impl Answer {
    /// Writes the header, checksum zero, and returns its length, 24 or 40 bytes.
    #[inline(always)]
    pub fn write(&self, to: &mut [u8; ANSWER_MAX]) -> usize {
        let [sport_high, sport_low, dport_high, dport_low] = self.ports;
        let bytes = if self.full { ANSWER_MAX } else { 24 };
        let (seq, ack, window) = (self.seq.to_be_bytes(), self.ack.to_be_bytes(), WINDOW.to_be_bytes());
        [to[0], to[1], to[2], to[3]] = [dport_high, dport_low, sport_high, sport_low];
        [to[4], to[5], to[6], to[7]] = seq;
        [to[8], to[9], to[10], to[11]] = ack;
        [to[12], to[13]] = [(bytes as u8 / 4) << 4, 0x12];
        [to[14], to[15]] = window;
        [to[16], to[17], to[18], to[19]] = [0; 4];
        let mss = self.mss.to_be_bytes();
        [to[20], to[21], to[22], to[23]] = [2, 4, mss[0], mss[1]];
        if self.full {
            [to[24], to[25]] = if self.offer.sack != 0 { [4, 2] } else { [1, 1] };
            [to[26], to[27]] = [8, 10];
            [to[28], to[29], to[30], to[31]] = self.stamp.to_be_bytes();
            [to[32], to[33], to[34], to[35]] = self.offer.timestamp.to_be_bytes();
            [to[36], to[37], to[38], to[39]] =
                if self.offer.scale == NO_SCALE { [1; 4] } else { [1, 3, 3, self.scale] };
        }
        bytes
    }
}

/// Folds a sum of 16-bit words to the Internet checksum (RFC 1071).
#[inline(always)]
pub const fn fold(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    !(sum as u16)
}

/// Sums an even number of bytes as 16-bit words.
#[inline(always)]
pub fn sum(bytes: &[u8]) -> u64 {
    let (words, _) = bytes.as_chunks::<2>();
    let mut sum = 0;
    for word in words {
        sum += u16::from_be_bytes(*word) as u64;
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The options of a Linux client: MSS, SACK, timestamps, NOP, window scale 7.
    const LINUX: [u8; 20] = [2, 4, 5, 180, 4, 2, 8, 10, 0, 1, 2, 3, 0, 0, 0, 0, 1, 3, 3, 7];

    fn header(options: &[u8]) -> ([u8; 64], usize) {
        let mut header = [0; 64];
        header[20..20 + options.len()].copy_from_slice(options);
        (header, 20 + options.len())
    }

    #[test]
    fn what_a_syn_offers_is_read() {
        let full = Offer { scale: 7, sack: 1, has_timestamp: 1, timestamp: 0x0001_0203, signed: 0 };
        let md5 = [[2, 4, 5, 180, 1, 1, 19, 18].as_slice(), &[7; 16], &[4, 2]].concat();
        let cases: [(&[u8], Offer); 9] = [
            (&md5, Offer { sack: 1, signed: 1, ..Offer::NOTHING }),
            (&[29, 4, 1, 1], Offer { signed: 1, ..Offer::NOTHING }),
            (&LINUX, full),
            (&[], Offer::NOTHING),
            (&[2, 4, 5, 180], Offer::NOTHING),
            (&[1, 1, 4, 2], Offer { sack: 1, ..Offer::NOTHING }),
            // The end of the list hides what is behind it; a length of 0 or 1 ends it too.
            (&[0, 4, 2, 0], Offer::NOTHING),
            (&[4, 0, 3, 3, 7, 0, 0, 0], Offer::NOTHING),
            // A window scale above 14 counts as 14 (RFC 7323, 2.3).
            (&[3, 3, 40, 0], Offer { scale: 14, ..Offer::NOTHING }),
        ];
        for (options, expected) in cases {
            let (header, bytes) = header(options);
            let mut walk = Walk::new(bytes as u32);
            while walk.step(&header) {}
            assert_eq!(walk.offer, expected, "{options:?}");
        }
    }

    #[test]
    fn a_stamp_carries_the_offer_and_is_never_in_the_future() {
        let offers = [(Offer { scale: 7, sack: 1, ..Offer::NOTHING }, 7 | 16), (Offer::NOTHING, 15)];
        for (offer, bits) in offers {
            for now in [64, 1000, 1023, 1024, 70_000, u32::MAX] {
                let stamp = timestamp(now, offer);
                assert_eq!(stamp & 63, bits);
                assert!(stamp <= now && now - stamp < 128, "{now}: {stamp}");
            }
        }
    }

    #[test]
    fn the_answer_is_a_syn_ack_that_says_what_was_offered() {
        let offer = Offer { scale: 7, sack: 1, has_timestamp: 1, timestamp: 6, signed: 0 };
        let ports = [0x30, 0x39, 0, 80];
        let answer = Answer { ports, seq: 1, ack: 2, mss: 1460, full: true, offer, stamp: 5, scale: 10 };
        let mut header = [0xff; ANSWER_MAX];
        assert_eq!(answer.write(&mut header), 40);
        assert_eq!(header[..4], [0, 80, 0x30, 0x39], "ports change places");
        assert_eq!(header[12..14], [0xa0, 0x12]);
        assert_eq!(header[20..], [2, 4, 5, 180, 4, 2, 8, 10, 0, 0, 0, 5, 0, 0, 0, 6, 1, 3, 3, 10]);
        let mut plain = [0; ANSWER_MAX];
        assert_eq!(Answer { full: false, ..answer }.write(&mut plain), 24);
        assert_eq!(plain[12], 0x60);
    }

    #[test]
    fn the_checksum_is_that_of_rfc_1071() {
        // RFC 1071, 3: 0001 f203 f4f5 f6f7 sums to ddf2.
        assert_eq!(fold(sum(&[0, 1, 0xf2, 3, 0xf4, 0xf5, 0xf6, 0xf7])), !0xddf2);
    }
}
