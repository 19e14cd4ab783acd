//! For every capture, packets and bytes per class are those of an independent reading: tshark's
//! dissection, mapped to classes by the functions below, which share no code with the parser.

use std::{
    collections::{BTreeMap, HashMap},
    fs::File,
    net::IpAddr,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};
use ftagent::bpf::testrun::MIN_FRAME;
use ftagent_common::TrafficClass::{self, *};
use ftagent_tests::{
    packet::{
        datapath::{Datapath, check_identity},
        fixtures::REFLECTORS,
    },
    peers::need,
    sandbox::may_run,
    traffic::need_captures,
};
use pcap_parser::{PcapBlockOwned, PcapError, create_reader};

/// What tshark is asked for; the first occurrence of each, so the outermost header.
const FIELDS: [&str; 36] = [
    "frame.len",
    "eth.type",
    "vlan.etype",
    "ip.version",
    "ip.hdr_len",
    "ip.len",
    "ip.flags.mf",
    "ip.frag_offset",
    "ip.proto",
    "ip.src",
    "ip.dst",
    "ipv6.version",
    "ipv6.plen",
    "ipv6.nxt",
    "ipv6.src",
    "ipv6.dst",
    "ipv6.hopopts.nxt",
    "ipv6.hopopts.len_oct",
    "ipv6.routing.nxt",
    "ipv6.routing.len_oct",
    "ipv6.dstopts.nxt",
    "ipv6.dstopts.len_oct",
    "ipv6.fraghdr.nxt",
    "ipv6.fraghdr.offset",
    "ipv6.fraghdr.more",
    "tcp.srcport",
    "tcp.dstport",
    "tcp.hdr_len",
    "tcp.flags",
    "tcp.payload",
    "udp.srcport",
    "udp.dstport",
    "udp.length",
    "udp.payload",
    "icmp.type",
    "icmpv6.type",
];

/// Each packet on its own: no reassembly, which moves payload to the last of several packets.
const PREFERENCES: [&str; 4] = [
    "ip.defragment:FALSE",
    "ipv6.defragment:FALSE",
    "tcp.desegment_tcp_streams:FALSE",
    "tcp.reassemble_out_of_order:FALSE",
];

/// What tshark says of one packet.
struct Dissected<'a> {
    fields: HashMap<&'static str, &'a str>,
}

impl<'a> Dissected<'a> {
    fn parse(line: &'a str) -> Self {
        let fields = FIELDS.into_iter().zip(line.split('|')).filter(|(_, value)| !value.is_empty()).collect();
        Self { fields }
    }

    fn number(&self, field: &str) -> Option<usize> {
        let text = *self.fields.get(field)?;
        match text.strip_prefix("0x") {
            Some(hex) => usize::from_str_radix(hex, 16).ok(),
            None => text.parse().ok(),
        }
    }

    fn is_set(&self, field: &str) -> bool {
        matches!(self.fields.get(field), Some(&("1" | "True")))
    }

    fn address(&self, field: &str) -> Option<IpAddr> {
        self.fields.get(field)?.parse().ok()
    }

    /// Payload of `bytes` bytes; what the capture cut off is zeros, as it is for the program.
    fn payload(&self, field: &str, bytes: usize) -> Vec<u8> {
        let hex = self.fields.get(field).copied().unwrap_or_default().as_bytes();
        let digit = |c: u8| char::from(c).to_digit(16).unwrap_or(0) as u8;
        let mut payload: Vec<u8> = hex.chunks_exact(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect();
        payload.resize(bytes, 0);
        payload
    }
}

/// What is left of an IP packet behind its headers.
struct Upper {
    proto: usize,
    bytes: usize,
    src: IpAddr,
    dst: IpAddr,
}

fn class_of(packet: &Dissected<'_>) -> TrafficClass {
    let Some(mut ethertype) = packet.number("eth.type") else { return OtherL2 };
    let mut header = 14;
    if matches!(ethertype, 0x8100 | 0x88a8) {
        header += 4;
        ethertype = packet.number("vlan.etype").unwrap_or(0);
    }
    let room = packet.number("frame.len").unwrap_or(0).saturating_sub(header);
    let upper = match ethertype {
        0x0800 => ipv4(packet, room),
        0x86dd => ipv6(packet, room),
        0x0806 => return Arp,
        _ => return OtherL2,
    };
    match upper {
        Ok(upper) => transport(packet, &upper),
        Err(class) => class,
    }
}

fn ipv4(packet: &Dissected<'_>, room: usize) -> Result<Upper, TrafficClass> {
    let number = |field| packet.number(field).ok_or(Malformed);
    let (header, total) = (number("ip.hdr_len")?, number("ip.len")?);
    let (src, dst) = (packet.address("ip.src").ok_or(Malformed)?, packet.address("ip.dst").ok_or(Malformed)?);
    if number("ip.version")? != 4 || header < 20 || total < header || total > room || is_martian(src) {
        return Err(Malformed);
    }
    let offset = number("ip.frag_offset")?;
    if offset != 0 || packet.is_set("ip.flags.mf") {
        return Err(match offset {
            _ if src.is_unspecified() || 8 * offset + total > 65535 => Malformed,
            0 => FragFirst,
            _ => FragNext,
        });
    }
    Ok(Upper { proto: number("ip.proto")?, bytes: total - header, src, dst })
}

fn ipv6(packet: &Dissected<'_>, room: usize) -> Result<Upper, TrafficClass> {
    let number = |field| packet.number(field).ok_or(Malformed);
    let (src, dst) = (packet.address("ipv6.src").ok_or(Malformed)?, packet.address("ipv6.dst").ok_or(Malformed)?);
    let mut bytes = number("ipv6.plen")?;
    if number("ipv6.version")? != 6 || 40 + bytes > room || is_martian(src) {
        return Err(Malformed);
    }
    let mut proto = number("ipv6.nxt")?;
    // The first of each kind is enough for the captures at hand; a second would be read wrongly
    // and be seen.
    for _ in 0..8 {
        let (next, length) = match proto {
            0 => ("ipv6.hopopts.nxt", number("ipv6.hopopts.len_oct")?),
            43 => ("ipv6.routing.nxt", number("ipv6.routing.len_oct")?),
            60 => ("ipv6.dstopts.nxt", number("ipv6.dstopts.len_oct")?),
            44 => ("ipv6.fraghdr.nxt", 8),
            _ => break,
        };
        bytes = bytes.checked_sub(length).ok_or(Malformed)?;
        let offset = packet.number("ipv6.fraghdr.offset").unwrap_or(0);
        if proto == 44 && (offset != 0 || packet.is_set("ipv6.fraghdr.more")) {
            return Err(if offset == 0 { FragFirst } else { FragNext });
        }
        proto = number(next)?;
    }
    Ok(Upper { proto, bytes, src, dst })
}

/// DESIGN, Safety.
fn is_martian(source: IpAddr) -> bool {
    source.is_loopback() || source.is_multicast() || source == IpAddr::from([255, 255, 255, 255])
}

fn transport(packet: &Dissected<'_>, upper: &Upper) -> TrafficClass {
    let unspecified = upper.src.is_unspecified();
    let at_least = |bytes, class| if upper.bytes < bytes || unspecified { Malformed } else { class };
    match (upper.proto, upper.src) {
        (6, _) => at_least(20, tcp(packet, upper)),
        (17, _) => udp(packet, upper),
        (1, IpAddr::V4(_)) => at_least(8, icmp(packet.number("icmp.type"))),
        (58, IpAddr::V6(_)) => icmp6(packet.number("icmpv6.type"), upper),
        (2, IpAddr::V4(_)) if upper.bytes >= 8 => Igmp,
        (2, _) => at_least(8, Igmp),
        (47, _) => at_least(4, Gre),
        (50, _) => at_least(8, EspAh),
        (51, _) => at_least(12, EspAh),
        (4, _) => at_least(20, Ipip),
        (41, _) => at_least(40, Ipip),
        (132, _) => at_least(12, Sctp),
        _ => at_least(0, OtherProto),
    }
}

fn icmp(kind: Option<usize>) -> TrafficClass {
    match kind {
        Some(0) => IcmpEchoReply,
        Some(3) => IcmpUnreachable,
        Some(8) => IcmpEcho,
        _ => IcmpOther,
    }
}

fn icmp6(kind: Option<usize>, upper: &Upper) -> TrafficClass {
    let kind = kind.unwrap_or(0);
    if upper.bytes < 8 || upper.src.is_unspecified() && ![131, 132, 133, 135, 143].contains(&kind) {
        return Malformed;
    }
    match kind {
        128 | 129 => Icmp6Echo,
        133..=137 => Icmp6Nd,
        _ => Icmp6Other,
    }
}

fn tcp(packet: &Dissected<'_>, upper: &Upper) -> TrafficClass {
    let (Some(header), Some(flags)) = (packet.number("tcp.hdr_len"), packet.number("tcp.flags")) else {
        return Malformed;
    };
    let land = upper.src == upper.dst && packet.number("tcp.srcport") == packet.number("tcp.dstport");
    if header < 20 || header > upper.bytes || land {
        return Malformed;
    }
    let set: String = "FSRPAU".chars().enumerate().filter(|(i, _)| flags >> i & 1 == 1).map(|(_, c)| c).collect();
    match set.as_str() {
        "" => TcpNull,
        "S" => TcpSyn,
        "SA" => TcpSynAck,
        "FA" | "FPA" => TcpFin,
        "R" | "RA" | "RP" | "RPA" => TcpRst,
        "FPU" => TcpXmas,
        "U" | "PU" | "AU" | "PAU" => TcpUrg,
        "A" | "PA" => match upper.bytes - header {
            0 => TcpAck,
            bytes => request(&packet.payload("tcp.payload", bytes)),
        },
        _ => TcpBadFlags,
    }
}

fn request(payload: &[u8]) -> TrafficClass {
    const METHODS: [&str; 10] =
        ["GET ", "POST ", "HEAD ", "PUT ", "DELETE ", "OPTIONS ", "PATCH ", "CONNECT ", "TRACE ", "PRI * HTTP/2.0"];
    match payload {
        _ if payload.len() < 8 => TcpData,
        [0x16, 3, _, _, _, 1, ..] => TlsClientHello,
        _ if METHODS.iter().any(|method| payload.starts_with(method.as_bytes())) => HttpRequest,
        _ => TcpData,
    }
}

fn udp(packet: &Dissected<'_>, upper: &Upper) -> TrafficClass {
    let number = |field| packet.number(field);
    let (Some(src), Some(dst), Some(length)) = (number("udp.srcport"), number("udp.dstport"), number("udp.length"))
    else {
        return Malformed;
    };
    let stray = upper.src.is_unspecified() && (upper.src.is_ipv6() || (src, dst) != (68, 67));
    if length < 8 || length > upper.bytes || stray || (upper.src == upper.dst && src == dst) {
        return Malformed;
    }
    let payload = packet.payload("udp.payload", length - 8);
    if let Some(class) = service(&payload, dst) {
        return class;
    }
    if payload.starts_with(&[0xff; 4]) && src != 27015 && src != 27960 {
        return UdpGameQuery;
    }
    if payload.starts_with(b"HTTP/1.1 200") {
        return UdpSrcSsdp;
    }
    if let Some((_, class)) = REFLECTORS.iter().find(|(port, _)| usize::from(*port) == src) {
        return *class;
    }
    match payload.len() {
        0 => UdpEmpty,
        1..=100 => UdpSmall,
        101..=999 => UdpMedium,
        _ => UdpLarge,
    }
}

fn service(payload: &[u8], port: usize) -> Option<TrafficClass> {
    let ike = |payload: &[u8]| payload.len() >= 28 && payload[..8] != [0; 8] && payload[8..16] == [0; 8];
    match (port, payload) {
        (53, [_, _, flags, ..]) if payload.len() >= 12 && flags & 0x80 == 0 => Some(UdpDnsQuery),
        (443, [_, 0, 0, 0, 0, ..]) => None,
        (443, [first, 0x6b, 0x33, 0x43, 0xcf, ..]) => {
            (first & 0xf0 == 0xd0 && payload.len() >= 8).then_some(UdpQuicInitial)
        }
        (443, [first, ..]) if first & 0xf0 == 0xc0 && payload.len() >= 8 => Some(UdpQuicInitial),
        (5060, [b'A'..=b'Z', ..]) if payload.len() >= 8 && !payload.starts_with(b"SIP/") => Some(UdpSip),
        (1194, [first, ..]) if payload.len() >= 8 && [1, 7, 10].contains(&(first >> 3)) => Some(UdpVpn),
        (51820, [1, 0, 0, 0, ..]) if payload.len() == 148 => Some(UdpVpn),
        (500, _) if ike(payload) => Some(UdpVpn),
        (4500, [0, 0, 0, 0, message @ ..]) if ike(message) => Some(UdpVpn),
        _ => None,
    }
}

/// Packets and bytes by class.
type Totals = BTreeMap<TrafficClass, (u64, u64)>;

fn add(totals: &mut Totals, class: TrafficClass, bytes: usize) {
    let (packets, all) = totals.entry(class).or_default();
    *packets += 1;
    *all += bytes as u64;
}

/// Reads a capture: every frame at its length on the wire, zeros where the capture cut it off.
fn frames(path: &Path) -> Result<Vec<Vec<u8>>> {
    let mut reader = create_reader(1 << 20, File::open(path)?).map_err(|e| anyhow::anyhow!("{e}"))?;
    let mut frames = Vec::new();
    loop {
        let offset = match reader.next() {
            Ok((offset, PcapBlockOwned::Legacy(block))) => {
                let mut frame = block.data.to_vec();
                frame.resize(block.origlen as usize, 0);
                frames.push(frame);
                offset
            }
            Ok((offset, PcapBlockOwned::LegacyHeader(_))) => offset,
            Ok((_, PcapBlockOwned::NG(_))) => bail!("a pcapng file: not expected among these captures"),
            Err(PcapError::Eof) => return Ok(frames),
            Err(PcapError::Incomplete(_)) => {
                reader.refill().map_err(|e| anyhow::anyhow!("{e}"))?;
                continue;
            }
            Err(error) => bail!("{error}"),
        };
        reader.consume(offset);
    }
}

/// Runs tshark and returns one line for every packet.
fn dissect(path: &Path) -> Result<String> {
    let mut tshark = Command::new("tshark");
    tshark.args(["-n", "-T", "fields", "-E", "separator=|", "-E", "occurrence=f", "-r"]).arg(path);
    tshark.args(PREFERENCES.iter().flat_map(|preference| ["-o", preference]));
    tshark.args(FIELDS.iter().flat_map(|field| ["-e", field]));
    let output = tshark.output().context("running tshark; Debian's package `tshark` has it")?;
    ensure!(output.status.success(), "tshark: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

fn compare(datapath: &mut Datapath, path: &Path) -> Result<u64> {
    let frames = frames(path)?;
    let dissection = dissect(path)?;
    ensure!(dissection.lines().count() == frames.len(), "tshark saw another number of packets");
    let before = datapath.counters()?;
    let (mut expected, mut wrong) = (Totals::new(), Vec::new());
    for (i, (frame, line)) in frames.iter().zip(dissection.lines()).enumerate() {
        if frame.len() < MIN_FRAME {
            continue;
        }
        let class = class_of(&Dissected::parse(line));
        let sample = datapath.feed_fast(frame)?.header;
        if usize::from(sample.class) != class.index() {
            let ours = TrafficClass::from_index(usize::from(sample.class)).map(TrafficClass::as_str);
            wrong.push(format!("packet {}: tshark says {}, the program {ours:?}", i + 1, class.as_str()));
        }
        add(&mut expected, class, frame.len());
    }
    ensure!(
        wrong.is_empty(),
        "{} differences, the first: {}",
        wrong.len(),
        wrong.into_iter().take(5).collect::<Vec<_>>().join("; ")
    );
    let after = datapath.counters()?;
    check_identity(&after)?;
    for class in TrafficClass::ALL {
        let (now, then) = (after.class(class), before.class(class));
        let counted = (now.packets - then.packets, now.bytes - then.bytes);
        let read = expected.get(&class).copied().unwrap_or_default();
        ensure!(counted == read, "{}: counted {counted:?} packets and bytes, read {read:?}", class.as_str());
    }
    Ok(expected.values().map(|(packets, _)| packets).sum())
}

fn pcaps(root: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for directory in root.read_dir()?.flatten().filter(|entry| entry.path().is_dir()) {
        for entry in directory.path().read_dir()? {
            found.push(entry?.path());
        }
    }
    found.retain(|path| path.extension().is_some_and(|extension| extension == "pcap"));
    found.sort();
    Ok(found)
}

#[test]
fn every_capture_counts_as_tshark_reads_it() -> Result<()> {
    let name = "every_capture_counts_as_tshark_reads_it";
    let Some(root) = need_captures(name) else { return Ok(()) };
    if !may_run(name) || !need(name, &["tshark"]) {
        return Ok(());
    }
    let captures = pcaps(&root)?;
    let mut datapath = Datapath::new()?;
    let (mut packets, mut failures) = (0, Vec::new());
    for path in &captures {
        match compare(&mut datapath, path) {
            Ok(n) => packets += n,
            Err(error) => failures.push(format!("{}: {error:#}", path.display())),
        }
    }
    eprintln!("{packets} packets of {} captures", captures.len());
    assert!(failures.is_empty(), "{} captures differ:\n{}", failures.len(), failures.join("\n"));
    Ok(())
}
