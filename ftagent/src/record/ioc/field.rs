//! What a condition may ask of a packet: fields by name, read from the first bytes of its frame. A field
//! that a packet does not have is `None`, and a condition on it does not hold.

use std::net::IpAddr;

use ftagent_common::rules::has;

use crate::decide::Packet;

/// A packet with the bytes that were kept of it.
#[derive(Clone, Copy, Debug)]
pub struct Look<'a> {
    /// It, decoded.
    pub packet: &'a Packet,
    /// The bytes of its frame that there are.
    pub frame: &'a [u8],
    /// The bytes of its payload that there are.
    pub payload: &'a [u8],
    /// Offset of the IP header.
    l3: usize,
    /// Offset of the header behind it; 0 where there is none or it is not known.
    l4: usize,
}

const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
const GRE: u8 = 47;
const IPIP: u8 = 4;
/// The kind of the option of TCP Fast Open.
const FAST_OPEN: u8 = 34;

impl<'a> Look<'a> {
    /// Looks at a packet; `frame` is what it was decoded from.
    pub fn of(packet: &'a Packet, frame: &'a [u8]) -> Self {
        let mut look = Self { packet, frame, payload: packet.head(), l3: 0, l4: 0 };
        let mut ethertype = 12;
        while matches!(look.pair(ethertype), Some(0x8100 | 0x88a8)) {
            ethertype += 4;
        }
        look.l3 = ethertype + 2;
        look.l4 = look.transport();
        let payload = usize::from(packet.key.payload);
        if packet.key.has & has::PAYLOAD != 0
            && let Some(rest) = frame.get(payload..)
        {
            look.payload = rest.get(..usize::from(packet.payload)).unwrap_or(rest);
        }
        look
    }

    fn transport(&self) -> usize {
        let packet = self.packet;
        if packet.ends.is_none() || packet.fragment.is_some_and(|fragment| fragment.offset != 0) {
            return 0;
        }
        match packet.src() {
            Some(IpAddr::V4(_)) => self.l3 + usize::from(self.byte(self.l3).unwrap_or(0) & 15) * 4,
            // Behind extension headers only what was parsed as a whole is known.
            _ if self.byte(self.l3 + 6) == Some(packet.proto) => self.l3 + 40,
            _ => 0,
        }
    }

    fn byte(&self, at: usize) -> Option<u8> {
        self.frame.get(at).copied()
    }

    fn pair(&self, at: usize) -> Option<u16> {
        self.frame.get(at..)?.first_chunk().map(|bytes| u16::from_be_bytes(*bytes))
    }

    fn word(&self, at: usize) -> Option<u32> {
        self.frame.get(at..)?.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
    }

    fn is(&self, proto: u8) -> Option<()> {
        (self.packet.proto == proto && self.l4 != 0).then_some(())
    }

    fn v4(&self) -> Option<()> {
        self.packet.src()?.is_ipv4().then_some(())
    }

    /// Returns up to eight bytes of payload as a number, most significant first.
    pub fn number(&self, at: usize, width: usize) -> Option<u64> {
        let bytes = self.payload.get(at..at.checked_add(width)?)?;
        Some(bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    /// Returns a field.
    pub fn field(&self, field: Field) -> Option<u64> {
        use Field::*;
        Some(match field {
            FrameLen | IpVersion | IpProto | IpLen | IpId | IpTtl | IpTos | IpDf | IpSrc | IpDst => {
                return self.network(field);
            }
            Sport | Dport => {
                matches!(self.packet.proto, TCP | UDP).then_some(())?;
                u64::from(if field == Sport { self.packet.sport } else { self.packet.dport })
            }
            PayloadLen => {
                self.packet.ends?;
                u64::from(self.packet.payload)
            }
            PayloadFill => return self.fill(),
            TcpSeq | TcpAck | TcpFlags | TcpWindow | TcpUrgent | TcpOptionsLen => return self.tcp(field),
            TcpMss => self.option(2)?.number::<2>(0)?,
            TcpScale => self.option(3)?.number::<1>(0)?,
            TcpTsVal => self.option(8)?.number::<4>(0)?,
            TcpTsEcr => self.option(8)?.number::<4>(4)?,
            TcpLayout => {
                self.is(TCP)?;
                layout(self.options().map(|option| option.kind))
            }
            TcpFastOpen => {
                self.is(TCP)?;
                u64::from(self.option(FAST_OPEN).is_some())
            }
            UdpLen => {
                self.is(UDP)?;
                u64::from(self.pair(self.l4 + 4)?)
            }
            UdpChecksum => {
                self.is(UDP)?;
                u64::from(self.pair(self.l4 + 6)?)
            }
            IcmpType | IcmpCode | IcmpId | IcmpSeq => return self.icmp(field),
            GreProto => {
                self.is(GRE)?;
                u64::from(self.pair(self.l4 + 2)?)
            }
            InnerSrc | InnerDst | InnerId | InnerLen | InnerProto => return self.inner(field),
        })
    }

    fn network(&self, field: Field) -> Option<u64> {
        use Field::*;
        let (src, dst) = self.packet.ends?;
        let v4 = |addr: IpAddr| match addr {
            IpAddr::V4(addr) => Some(u64::from(addr.to_bits())),
            IpAddr::V6(_) => None,
        };
        Some(match field {
            FrameLen => u64::from(self.packet.wire),
            IpVersion => u64::from(if src.is_ipv4() { 4u8 } else { 6 }),
            IpProto => u64::from(self.packet.proto),
            IpLen if src.is_ipv4() => u64::from(self.pair(self.l3 + 2)?),
            IpLen => u64::from(self.pair(self.l3 + 4)?) + 40,
            IpTtl => u64::from(self.packet.ttl),
            IpTos if src.is_ipv4() => u64::from(self.byte(self.l3 + 1)?),
            IpTos => u64::from(self.pair(self.l3)? >> 4 & 0xff),
            IpSrc => v4(src)?,
            IpDst => v4(dst)?,
            IpId => {
                self.v4()?;
                u64::from(self.pair(self.l3 + 4)?)
            }
            _ => {
                self.v4()?;
                u64::from(self.byte(self.l3 + 6)? >> 6 & 1)
            }
        })
    }

    fn tcp(&self, field: Field) -> Option<u64> {
        let packet = self.packet;
        // Read by the decoder even where the packet counts as malformed.
        (packet.proto == TCP && packet.ends.is_some() && self.l4 != 0).then_some(())?;
        Some(match field {
            Field::TcpSeq => u64::from(packet.seq),
            Field::TcpAck => u64::from(packet.ack),
            Field::TcpFlags => u64::from(packet.flags),
            Field::TcpWindow => u64::from(packet.window),
            Field::TcpOptionsLen => u64::from(packet.options),
            _ => u64::from(self.pair(self.l4 + 18)?),
        })
    }

    fn icmp(&self, field: Field) -> Option<u64> {
        matches!(self.packet.proto, ICMP | ICMPV6).then_some(())?;
        Some(match field {
            Field::IcmpType => u64::from(self.byte(self.l4)?),
            Field::IcmpCode => u64::from(self.byte(self.l4 + 1)?),
            Field::IcmpId => u64::from(self.pair(self.l4 + 4)?),
            _ => u64::from(self.pair(self.l4 + 6)?),
        })
    }

    /// The IPv4 header inside GRE without options (RFC 2784) or IP in IP (RFC 2003).
    fn inner(&self, field: Field) -> Option<u64> {
        let at = match self.packet.proto {
            GRE => match (self.pair(self.l4)? & 0xb000, self.pair(self.l4 + 2)?) {
                (0, 0x0800) => self.l4 + 4,
                (0, 0x6558) => self.l4 + 4 + 14,
                _ => return None,
            },
            IPIP => self.l4,
            _ => return None,
        };
        (self.l4 != 0 && self.byte(at)? >> 4 == 4).then_some(())?;
        Some(match field {
            Field::InnerSrc => u64::from(self.word(at + 12)?),
            Field::InnerDst => u64::from(self.word(at + 16)?),
            Field::InnerId => u64::from(self.pair(at + 4)?),
            Field::InnerLen => u64::from(self.pair(at + 2)?),
            _ => u64::from(self.byte(at + 9)?),
        })
    }

    /// The byte that the visible payload is made of, where that is four bytes or more.
    fn fill(&self) -> Option<u64> {
        let first = *self.payload.first()?;
        let all = self.payload.len() >= 4 && self.payload.iter().all(|byte| *byte == first);
        all.then_some(u64::from(first))
    }

    fn options(&self) -> Options<'a> {
        let from = self.l4 + 20;
        let rest = self.frame.get(from..from + usize::from(self.packet.options)).unwrap_or_default();
        Options { rest: if self.packet.proto == TCP && self.l4 != 0 { rest } else { &[] } }
    }

    fn option(&self, kind: u8) -> Option<TcpOption<'a>> {
        self.options().find(|option| option.kind == kind)
    }
}

/// Options of TCP, in order (RFC 9293, 3.2). What makes no sense ends them.
struct Options<'a> {
    rest: &'a [u8],
}

struct TcpOption<'a> {
    kind: u8,
    value: &'a [u8],
}

impl TcpOption<'_> {
    fn number<const N: usize>(&self, at: usize) -> Option<u64> {
        let bytes: &[u8; N] = self.value.get(at..)?.first_chunk()?;
        Some(bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }
}

impl<'a> Iterator for Options<'a> {
    type Item = TcpOption<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        let (&kind, rest) = self.rest.split_first()?;
        if kind < 2 {
            // The end of the list is padded; what follows says nothing.
            self.rest = if kind == 0 { &[] } else { rest };
            return Some(TcpOption { kind, value: &[] });
        }
        let length = usize::from(*rest.first()?);
        let value = self.rest.get(2..length).unwrap_or_default();
        self.rest = if length < 2 { &[] } else { self.rest.get(length..).unwrap_or_default() };
        Some(TcpOption { kind, value })
    }
}

/// Names of TCP options, by kind.
pub const OPTIONS: [(&str, u8); 7] =
    [("eol", 0), ("nop", 1), ("mss", 2), ("ws", 3), ("sackok", 4), ("ts", 8), ("fastopen", 34)];

/// Folds the kinds of options into a number that tells their order.
pub fn layout(kinds: impl Iterator<Item = u8>) -> u64 {
    kinds.fold(0, |folded: u64, kind| folded.wrapping_mul(257).wrapping_add(u64::from(kind) + 1))
}

macro_rules! fields {
    ($($name:literal $variant:ident $about:literal,)*) => {
        /// A field.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[expect(missing_docs, reason = "`FIELDS` says what each is")]
        pub enum Field { $($variant,)* }

        /// Every field: its name, and what it is.
        pub const FIELDS: &[(&str, Field, &str)] = &[$(($name, Field::$variant, $about),)*];
    };
}

fields! {
    "frame.len" FrameLen "bytes of the frame on the wire",
    "ip.version" IpVersion "4 or 6",
    "ip.proto" IpProto "protocol behind extension headers",
    "ip.len" IpLen "total length of the IP packet, bytes",
    "ip.id" IpId "identification (IPv4)",
    "ip.ttl" IpTtl "TTL or hop limit",
    "ip.tos" IpTos "type of service or traffic class, eight bits",
    "ip.df" IpDf "1 where fragmenting is forbidden (IPv4)",
    "ip.src" IpSrc "source address as a number (IPv4)",
    "ip.dst" IpDst "destination address as a number (IPv4)",
    "sport" Sport "source port of TCP or UDP",
    "dport" Dport "destination port of TCP or UDP",
    "payload.len" PayloadLen "bytes of payload behind TCP, UDP or ICMP's eight bytes, or behind IP",
    "payload.fill" PayloadFill "the byte that all of the payload consists of, where that is so",
    "tcp.seq" TcpSeq "sequence number",
    "tcp.ack" TcpAck "acknowledgement number",
    "tcp.flags" TcpFlags "FIN to URG, six bits",
    "tcp.window" TcpWindow "window as sent, unscaled",
    "tcp.urgent" TcpUrgent "urgent pointer",
    "tcp.options_len" TcpOptionsLen "bytes of options",
    "tcp.mss" TcpMss "maximum segment size that is offered",
    "tcp.scale" TcpScale "window scale that is offered",
    "tcp.tsval" TcpTsVal "time stamp",
    "tcp.tsecr" TcpTsEcr "time stamp echoed",
    "tcp.layout" TcpLayout "kinds of the options in order, compared with a text as 'mss,sackok,ts,nop,ws'",
    "tcp.fastopen" TcpFastOpen "1 where TCP Fast Open is offered or used (RFC 7413), 0 otherwise",
    "udp.len" UdpLen "length as UDP states it",
    "udp.checksum" UdpChecksum "checksum as sent",
    "icmp.type" IcmpType "type of ICMP or ICMPv6",
    "icmp.code" IcmpCode "code of ICMP or ICMPv6",
    "icmp.id" IcmpId "identifier of an echo",
    "icmp.seq" IcmpSeq "sequence number of an echo",
    "gre.proto" GreProto "what GRE carries, an EtherType",
    "inner.src" InnerSrc "source inside GRE or IP in IP (IPv4)",
    "inner.dst" InnerDst "destination inside (IPv4)",
    "inner.id" InnerId "identification inside (IPv4)",
    "inner.len" InnerLen "total length inside (IPv4)",
    "inner.proto" InnerProto "protocol inside (IPv4)",
}
