//! nftables: a table of its own, as text for `nft -f`.

use super::{
    super::{Action, Flags, FlowMatch, Fragment, Payload, Ranges, Rate, set::Number},
    CannotSay, Options, Place, Platform, Text, Widening,
    terms::{self, ICMP, ICMPV6, Lines, TCP, UDP},
};

/// nftables.
pub const PLATFORM: Platform = Platform {
    name: "nftables",
    title: "nftables 1.0",
    comment: "#",
    place: Place::Host,
    family: None,
    rule,
    black_hole: None,
};

/// The highest rate of a limit in bytes a second: the kernel's arithmetic overflows above.
const MOST_BYTES: u64 = 1 << 34;
/// The highest in packets: beyond, a packet costs a few nanoseconds, and parts of them are lost.
const MOST_PACKETS: u64 = 100_000_000;
/// A packet larger than the burst never passes: as large as one that the card has put together.
const LEAST_BURST: u64 = 65_536;
/// Bytes of an IPv6 header, which its length field does not count.
const HEADER_6: u16 = 40;

fn rule(matches: &FlowMatch, action: Action, options: &Options) -> Result<Text, CannotSay> {
    let (chain, verdict) = verdict(action)?;
    let (mut rules, mut widened) = (String::new(), Vec::new());
    for own in terms::families(matches) {
        // It stops there (`IP6_FH_F_AUTH`; seen on Linux 6.18), as the agent does.
        terms::widen(&mut widened, terms::widened(&own, false));
        // Only on its way past the interface a packet still has what pads its frame.
        let padded = options.interface.is_some() && !own.payload.is_empty();
        terms::widen(&mut widened, padded.then_some(Widening::Padding));
        for line in lines(&own)? {
            rules.push_str(&format!("        {line} {verdict}\n"));
        }
    }
    if rules.is_empty() {
        return Err(terms::nothing());
    }
    let name = &options.name;
    let (family, hook, place) = match &options.interface {
        Some(interface) => {
            ("netdev", format!("hook ingress device \"{interface}\" priority -500"), "as they arrive at the interface")
        }
        None => ("inet", "hook prerouting priority -450".to_owned(), "before fragments are put together"),
    };
    let text = format!(
        "add table {family} {name}\ndelete table {family} {name}\ntable {family} {name} {{\n{chain}    chain rules \
         {{\n{rules}    }}\n    chain arrivals {{\n        type filter {hook}; policy accept;\n        jump rules\n    \
         }}\n}}\n"
    );
    let undo = format!("nft delete table {family} {name}\n");
    Ok(Text { text, undo, traps: traps(action, place), losses: Vec::new(), widened })
}

fn traps(action: Action, place: &str) -> Vec<String> {
    let mut traps = vec![
        format!(
            "Packets are matched {place}, before every rule of other tables, of iptables-nft as well: their `accept` \
             does not save what is dropped here."
        ),
        "It replaces the table of this name and touches no other; it is gone after a restart of the machine unless it \
         stands in /etc/nftables.conf. `nft -c -f FILE` checks."
            .to_owned(),
        "It spares the host, not the link: what is dropped here has come through it.".to_owned(),
    ];
    match action {
        Action::RateLimit(Rate::Bps(_)) => traps.push(
            "The limit is in BYTES a second, of IP packets without their Ethernet header, and one for all senders \
             together."
                .to_owned(),
        ),
        Action::RateLimit(Rate::Pps(_)) => traps.push("The limit is one for all senders together.".to_owned()),
        _ => {}
    }
    traps
}

/// Returns the chain that a verdict needs, and the verdict.
fn verdict(action: Action) -> Result<(String, &'static str), CannotSay> {
    let limit = |what: String| Ok((format!("    chain verdict {{\n        {what}\n    }}\n"), "goto verdict"));
    match action {
        Action::Drop => Ok((String::new(), "counter drop")),
        Action::Count => limit("counter".to_owned()),
        Action::RateLimit(Rate::Bps(bits)) => {
            let bytes = bits / 8;
            if !(1..=MOST_BYTES).contains(&bytes) {
                return Err(CannotSay::new(
                    format!("its limits go from 1 to {MOST_BYTES} bytes a second"),
                    "take a rate between 8 bps and 137 Gbps, or in packets",
                ));
            }
            let burst = (bytes / 10).clamp(LEAST_BURST, u64::from(u32::MAX / 2));
            limit(format!("limit rate over {bytes} bytes/second burst {burst} bytes counter drop"))
        }
        Action::RateLimit(Rate::Pps(packets)) => {
            if packets > MOST_PACKETS {
                return Err(CannotSay::new(
                    format!("its limits are exact up to {MOST_PACKETS} packets a second"),
                    "take a lower rate, or one in bits",
                ));
            }
            let burst = (packets / 10).clamp(5, 1_000_000);
            limit(format!("limit rate over {packets}/second burst {burst} packets counter drop"))
        }
        Action::Challenge | Action::Capture => {
            Err(CannotSay::new(format!("it does not `{action}`"), "write drop, rate-limit or count"))
        }
    }
}

fn lines(own: &FlowMatch) -> Result<Vec<String>, CannotSay> {
    let six = terms::is_six(own);
    let ip = if six { "ip6" } else { "ip" };
    let mut lines = Lines::new(" ");
    lines.part(&format!("meta protocol {ip}"));
    for (word, net) in [("saddr", own.src), ("daddr", own.dst)] {
        if let Some(net) = net {
            lines.part(&format!("{ip} {word} {net}"));
        }
    }
    if own.needs_header() {
        // Where ports and the like are compared, the kernel takes the data of a later fragment for the header, in
        // IPv6 the fragment header itself.
        let not_later: &[&str] =
            if six { &["exthdr frag missing", "frag frag-off 0"] } else { &["ip frag-off & 0x1fff == 0"] };
        lines.and(&not_later.iter().map(|test| (*test).to_owned()).collect::<Vec<_>>())?;
    }
    if own.payload.is_empty() {
        if !own.proto.is_any() {
            lines.part(&format!("meta l4proto {}", set(&own.proto)));
        }
    } else {
        lines.and(&payloads(own))?;
    }
    if !own.port.is_any() {
        lines.and(&["th sport", "th dport"].map(|word| format!("{word} {}", set(&own.port))))?;
    }
    let icmp = if six { "icmpv6" } else { "icmp" };
    let fields: [(bool, String, String); 6] = [
        (own.sport.is_any(), "th sport".to_owned(), set(&own.sport)),
        (own.dport.is_any(), "th dport".to_owned(), set(&own.dport)),
        (own.icmp_type.is_any(), format!("{icmp} type"), set(&own.icmp_type)),
        (own.icmp_code.is_any(), format!("{icmp} code"), set(&own.icmp_code)),
        (own.dscp.is_any(), format!("{ip} dscp"), set(&own.dscp)),
        (own.ttl.is_any(), format!("{ip} {}", if six { "hoplimit" } else { "ttl" }), set(&own.ttl)),
    ];
    for (any, word, values) in fields {
        if !any {
            lines.part(&format!("{word} {values}"));
        }
    }
    if !own.flags.is_empty() {
        let test = |Flags { value, mask }: &Flags| format!("tcp flags & 0x{mask:02x} == 0x{value:02x}");
        lines.and(&own.flags.iter().map(test).collect::<Vec<_>>())?;
    }
    if !own.len.is_any() {
        let Some(lengths) = (if six { behind_header(&own.len) } else { Some(own.len.clone()) }) else {
            return Ok(Vec::new());
        };
        lines.part(&format!("{ip} length {}", set(&lengths)));
    }
    if !own.frag.is_empty() {
        let kinds = own.frag.iter().flat_map(|kind| fragment(*kind, six)).map(|test| (*test).to_owned());
        lines.and(&kinds.collect::<Vec<_>>())?;
    }
    Ok(lines.into_vec())
}

/// Turns lengths of packets into those of IPv6's field; `None` where no packet is so short.
fn behind_header(lengths: &Ranges<u16>) -> Option<Ranges<u16>> {
    let ranges = lengths.iter().filter(|(_, last)| *last >= HEADER_6);
    let ranges = ranges.map(|(first, last)| (first.saturating_sub(HEADER_6), last - HEADER_6)).collect();
    Ranges::new(ranges).ok().filter(|ranges| !ranges.is_any())
}

/// Writes a set; one item stands by itself.
fn set<T: Number>(ranges: &Ranges<T>) -> String {
    let items = terms::items(ranges, |one| one.to_string(), |first, last| format!("{first}-{last}"));
    match items.as_slice() {
        [one] => one.clone(),
        _ => format!("{{ {} }}", items.join(", ")),
    }
}

const fn fragment(kind: Fragment, six: bool) -> &'static [&'static str] {
    match (kind, six) {
        // IPv6 has no such bit, and the match has been rid of it.
        (Fragment::Dont, true) => &[],
        (Fragment::Dont, false) => &["ip frag-off & 0x4000 != 0"],
        (Fragment::Is, false) => &["ip frag-off & 0x1fff != 0"],
        (Fragment::First, false) => &["ip frag-off & 0x3fff == 0x2000"],
        (Fragment::Last, false) => &["ip frag-off & 0x1fff != 0 ip frag-off & 0x2000 == 0"],
        (Fragment::Not, false) => &["ip frag-off & 0x3fff == 0"],
        (Fragment::Is, true) => &["frag frag-off != 0"],
        (Fragment::First, true) => &["frag frag-off 0 frag more-fragments 1"],
        (Fragment::Last, true) => &["frag frag-off != 0 frag more-fragments 0"],
        // A header that says it is no fragment (RFC 6946) makes it none.
        (Fragment::Not, true) => &["exthdr frag missing", "frag frag-off 0 frag more-fragments 0"],
    }
}

/// Payloads begin elsewhere in each protocol: one alternative for each beginning.
fn payloads(own: &FlowMatch) -> Vec<String> {
    let known = |base: &str, shift: u16| {
        let tests = own.payload.iter().flat_map(|pattern| chunks(pattern, base, shift));
        tests.collect::<Vec<_>>().join(" ")
    };
    let groups: [(&[u8], &str, u16); 2] = [(&[TCP, UDP], "@ih", 0), (&[ICMP, ICMPV6], "@th", 8)];
    let mut all = Vec::new();
    let mut rest: Vec<(u8, u8)> =
        (0..=255).filter(|proto| own.proto.contains(*proto)).map(|proto| (proto, proto)).collect();
    for (protos, base, shift) in groups {
        let here: Vec<(u8, u8)> = rest.iter().copied().filter(|(proto, _)| protos.contains(proto)).collect();
        rest.retain(|(proto, _)| !protos.contains(proto));
        if let Ok(here) = Ranges::new(here)
            && !here.is_any()
        {
            all.push(format!("meta l4proto {} {}", set(&here), known(base, shift)));
        }
    }
    if let Ok(rest) = Ranges::new(rest)
        && !rest.is_any()
    {
        all.push(format!("meta l4proto {} {}", set(&rest), known("@th", 0)));
    }
    all
}

/// Tests of four bytes at most.
fn chunks(pattern: &Payload, base: &str, shift: u16) -> Vec<String> {
    let mut tests = Vec::new();
    let mut at = pattern.offset + shift;
    for (value, mask) in pattern.value.chunks(4).zip(pattern.mask.chunks(4)) {
        let word = |bytes: &[u8]| bytes.iter().fold(0u32, |word, byte| word << 8 | u32::from(*byte));
        let (bits, value, mask) = (8 * value.len(), word(value), word(mask));
        let whole = u32::MAX >> (32 - bits);
        let test = if mask == whole { String::new() } else { format!(" & {mask:#x} ==") };
        if mask != 0 {
            tests.push(format!("{base},{},{bits}{test} {value:#x}", 8 * at));
        }
        at += 4;
    }
    // That the payload reaches so far, although its last bytes may be any.
    if let (Some(0), Some(last)) = (pattern.mask.last(), pattern.offset.checked_add(shift + pattern.value.len() as u16))
    {
        tests.push(format!("{base},{},8 0-255", 8 * (last - 1)));
    }
    tests
}
