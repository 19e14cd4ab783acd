//! iptables and ip6tables, in the form of `iptables-restore`.

use super::{
    super::{Action, Family, Flags, FlowMatch, Fragment, Ranges, Rate},
    CannotSay, Loss, Options, Place, Platform, Text, Widening,
    routes::lose,
    terms::{self, ICMP, ICMPV6, Lines, TCP, UDP},
    u32::{self, Start},
};

/// iptables.
pub const PLATFORM: Platform = Platform {
    name: "iptables",
    title: "iptables 1.8, for iptables-restore --noflush",
    comment: "#",
    place: Place::Host,
    family: Some(Family::Ip4),
    rule: rule_4,
    black_hole: None,
};

/// ip6tables.
pub const PLATFORM_6: Platform = Platform {
    name: "ip6tables",
    title: "ip6tables 1.8, for ip6tables-restore --noflush",
    family: Some(Family::Ip6),
    rule: rule_6,
    ..PLATFORM
};

/// Ports in one match at most; a range counts as two.
const PORTS: usize = 15;
/// What hashlimit counts at most, bytes a second: beyond, its arithmetic is off by more than two in a hundred.
const MOST_BYTES: u64 = 1_000_000_000;
/// What it counts at least: it counts sixteens.
const LEAST_BYTES: u64 = 16;
/// What it counts at most, packets a second.
const MOST_PACKETS: u64 = 1_000_000;
/// Headers of IPv6 that are no protocol behind them.
const EXTENSIONS: [u8; 4] = [0, 43, 44, 60];
/// The flags that `--tcp-flags` knows.
const FLAGS: [&str; 6] = ["FIN", "SYN", "RST", "PSH", "ACK", "URG"];

fn rule_4(matches: &FlowMatch, action: Action, options: &Options) -> Result<Text, CannotSay> {
    rule(matches, action, options, Family::Ip4)
}

fn rule_6(matches: &FlowMatch, action: Action, options: &Options) -> Result<Text, CannotSay> {
    rule(matches, action, options, Family::Ip6)
}

fn rule(matches: &FlowMatch, action: Action, options: &Options, family: Family) -> Result<Text, CannotSay> {
    let (command, name) = (if family == Family::Ip4 { "iptables" } else { "ip6tables" }, &options.name);
    let mut text = Text::default();
    let Some(own) = terms::families(matches).into_iter().find(|own| own.family == Some(family)) else {
        return Err(terms::nothing());
    };
    let (chain, target) = verdict(action, name, family)?;
    terms::lose_authentication(&own, &mut text.losses);
    let lines = lines(&own, &mut text.losses)?;
    // The older ip6tables does (`ip6_packet_match`), and the one of nftables does not.
    terms::widen(&mut text.widened, terms::widened(&own, true));
    if family == Family::Ip6 && !own.payload.is_empty() {
        // What is looked for right behind the IPv6 header is in no packet with other headers.
        text.widened.retain(|one| *one == Widening::Malformed);
    }
    if lines.is_empty() {
        return Err(terms::nothing());
    }
    let limited = if chain.is_empty() { String::new() } else { format!(":{name}-limit - [0:0]\n") };
    let arrives = options.interface.as_ref().map_or_else(String::new, |interface| format!(" -i {interface}"));
    text.text = format!("*raw\n:{name}-rules - [0:0]\n{limited}{chain}");
    for line in lines {
        text.text.push_str(&format!("-A {name}-rules {line} {target}\n").replace("  ", " "));
    }
    text.text.push_str(&format!("-I PREROUTING{arrives} -j {name}-rules\nCOMMIT\n"));
    let command = format!("{command} -t raw");
    text.undo = format!("{command} -D PREROUTING{arrives} -j {name}-rules\n{command} -F {name}-rules\n");
    if !chain.is_empty() {
        text.undo.push_str(&format!("{command} -F {name}-limit\n{command} -X {name}-limit\n"));
    }
    // What refers to a chain goes before it.
    if let Some(at) = text.undo.find(&format!("{command} -F {name}-limit")) {
        text.undo.insert_str(at, &format!("{command} -X {name}-rules\n"));
    } else {
        text.undo.push_str(&format!("{command} -X {name}-rules\n"));
    }
    traps(&mut text.traps, &own, action);
    Ok(text)
}

fn traps(traps: &mut Vec<String>, own: &FlowMatch, action: Action) {
    let mut trap = |what: &str| traps.push(what.to_owned());
    trap("Give it to the restore command with --noflush: without, the whole raw table is emptied first.");
    trap("Take it back before it is given again: the jump is put in front once more each time.");
    trap("It is of one IP family: the other needs the other command.");
    trap("It spares the host, not the link, and is gone after a restart of the machine.");
    if !own.frag.is_empty() {
        traps.push(
            "Where connections are tracked, the kernel puts fragments together BEFORE these rules: they then see none. \
             nftables can match before that."
                .to_owned(),
        );
    }
    match action {
        Action::RateLimit(Rate::Bps(_)) => traps.push(
            "The limit is in BYTES a second (`b/s`), and one for all senders together; hashlimit rounds it to multiples \
             of 16 and a little up."
                .to_owned(),
        ),
        Action::RateLimit(Rate::Pps(packets)) => {
            traps.push("The limit is one for all senders together.".to_owned());
            let (whole, rest) = (MOST_PACKETS / packets.max(1), MOST_PACKETS % packets.max(1));
            if rest != 0 && whole != 0 {
                traps.push(format!("hashlimit rounds it to {} packets a second.", MOST_PACKETS / whole));
            }
        }
        _ => {}
    }
}

/// Returns the rules of the chain that limits, and the target.
fn verdict(action: Action, name: &str, family: Family) -> Result<(String, String), CannotSay> {
    let number = if family == Family::Ip4 { 4 } else { 6 };
    let limit = |above: String| {
        let rule = format!("-A {name}-limit -m hashlimit {above} --hashlimit-name {name}-{number} -j DROP\n");
        Ok((rule, format!("-g {name}-limit")))
    };
    match action {
        Action::Drop => Ok((String::new(), "-j DROP".to_owned())),
        Action::Count => Ok((format!("-A {name}-limit -j RETURN\n"), format!("-g {name}-limit"))),
        Action::RateLimit(Rate::Bps(bits)) => {
            let bytes = bits / 8;
            if !(LEAST_BYTES..=MOST_BYTES).contains(&bytes) {
                return Err(CannotSay::new(
                    format!("its limits go from {LEAST_BYTES} to {MOST_BYTES} bytes a second"),
                    "take a rate between 128 bps and 8 Gbps, or nftables",
                ));
            }
            // It demands a burst of a second, by its own rounding.
            let burst = bytes + bytes / 32 + 4096;
            limit(format!("--hashlimit-above {bytes}b/s --hashlimit-burst {burst}b"))
        }
        Action::RateLimit(Rate::Pps(packets)) => {
            if packets > MOST_PACKETS {
                return Err(CannotSay::new(
                    format!("its limits go to {MOST_PACKETS} packets a second"),
                    "take a lower rate, or nftables",
                ));
            }
            let burst = (packets / 10).max(5);
            limit(format!("--hashlimit-above {packets}/sec --hashlimit-burst {burst}"))
        }
        Action::Challenge | Action::Capture => {
            Err(CannotSay::new(format!("it does not `{action}`"), "write drop, rate-limit or count"))
        }
    }
}

fn lines(own: &FlowMatch, losses: &mut Vec<Loss>) -> Result<Vec<String>, CannotSay> {
    let six = terms::is_six(own);
    let mut lines = Lines::new(" ");
    for (word, net) in [("-s", own.src), ("-d", own.dst)] {
        if let Some(net) = net {
            lines.part(&format!("{word} {net}"));
        }
    }
    if own.payload.is_empty() {
        lines.and(&protocols(own))?;
    } else {
        lines.and(&payloads(own, losses)?)?;
    }
    for (word, ports) in [("--ports", &own.port), ("--sports", &own.sport), ("--dports", &own.dport)] {
        if !ports.is_any() {
            lines.and(&multiport(word, ports))?;
        }
    }
    icmp(own, &mut lines)?;
    if !own.flags.is_empty() {
        lines.and(&own.flags.iter().map(flags).collect::<Vec<_>>())?;
    }
    if !own.len.is_any() {
        let lengths = terms::items(&own.len, |one| one.to_string(), |first, last| format!("{first}:{last}"));
        lines.and(&lengths.iter().map(|length| format!("-m length --length {length}")).collect::<Vec<_>>())?;
    }
    if !own.dscp.is_any() {
        lines.and(&u32::of(if six { u32::DSCP_6 } else { u32::DSCP }, &own.dscp))?;
    }
    if !own.ttl.is_any() {
        lines.and(&u32::of(if six { u32::HOPS } else { u32::TTL }, &own.ttl))?;
    }
    if !own.frag.is_empty() {
        lines.and(&own.frag.iter().flat_map(|kind| fragment(*kind, six, losses)).collect::<Vec<_>>())?;
    }
    Ok(lines.into_vec())
}

/// Protocols one by one, or by their byte where the word for them says something else: `-p 0` is any.
fn protocols(own: &FlowMatch) -> Vec<String> {
    if own.proto.is_any() {
        return vec![String::new()];
    }
    let all: Vec<u8> = (0..=255).filter(|proto| own.proto.contains(*proto)).collect();
    if terms::is_six(own) {
        let real = all.iter().filter(|proto| !EXTENSIONS.contains(proto));
        return real.map(|proto| format!("-p {proto}")).collect();
    }
    if all.len() > 4 || all.contains(&0) {
        return u32::of(u32::PROTOCOL, &own.proto);
    }
    all.iter().map(|proto| format!("-p {proto}")).collect()
}

fn multiport(word: &str, ports: &Ranges<u16>) -> Vec<String> {
    let (mut all, mut now, mut room) = (Vec::new(), Vec::new(), PORTS);
    for (first, last) in ports.iter() {
        let takes = if first == last { 1 } else { 2 };
        if takes > room {
            all.push(std::mem::take(&mut now));
            room = PORTS;
        }
        room -= takes;
        now.push(if first == last { first.to_string() } else { format!("{first}:{last}") });
    }
    all.push(now);
    all.iter().map(|ports| format!("-m multiport {word} {}", ports.join(","))).collect()
}

fn icmp(own: &FlowMatch, lines: &mut Lines) -> Result<(), CannotSay> {
    if !terms::is_six(own) {
        // `--icmp-type 255` is any type, and it has no ranges: the bytes themselves.
        for (any, tests) in [
            (own.icmp_type.is_any(), u32::of(u32::ICMP_TYPE, &own.icmp_type)),
            (own.icmp_code.is_any(), u32::of(u32::ICMP_CODE, &own.icmp_code)),
        ] {
            if !any {
                lines.and(&tests)?;
            }
        }
        return Ok(());
    }
    let each = |ranges: &Ranges<u8>| (0..=255u8).filter(|value| ranges.contains(*value)).collect::<Vec<_>>();
    if own.icmp_type.is_any() && own.icmp_code.is_any() {
        return Ok(());
    }
    let types = each(&own.icmp_type);
    let tests: Vec<String> = match own.icmp_code.is_any() {
        true => types.iter().map(|kind| format!("-m icmp6 --icmpv6-type {kind}")).collect(),
        false => {
            let codes = each(&own.icmp_code);
            let pair = |kind: u8| codes.iter().map(move |code| format!("-m icmp6 --icmpv6-type {kind}/{code}"));
            types.iter().flat_map(|kind| pair(*kind)).collect()
        }
    };
    lines.and(&tests)
}

fn flags(Flags { value, mask }: &Flags) -> String {
    let names = |bits: u8| {
        let set = FLAGS.iter().enumerate().filter(|(bit, _)| bits & (1 << bit) != 0).map(|(_, name)| *name);
        let names = set.collect::<Vec<_>>().join(",");
        if names.is_empty() { "NONE".to_owned() } else { names }
    };
    let mut parts = Vec::new();
    if mask & 0x3f != 0 {
        parts.push(format!("-m tcp --tcp-flags {} {}", names(*mask), names(*value)));
    }
    for (bit, word) in [(0x40, "--ecn-tcp-ece"), (0x80, "--ecn-tcp-cwr")] {
        if mask & bit != 0 {
            parts.push(format!("-m ecn {}{word}", if value & bit != 0 { "" } else { "! " }));
        }
    }
    parts.join(" ")
}

fn fragment(kind: Fragment, six: bool, losses: &mut Vec<Loss>) -> Vec<String> {
    let four = |test: &str| vec![u32::test(test)];
    match (kind, six) {
        (Fragment::Dont, false) => four("4&0x4000=0x4000"),
        (Fragment::Is, false) => four("4&0x1FFF=1:0x1FFF"),
        (Fragment::First, false) => four("4&0x3FFF=0x2000"),
        (Fragment::Last, false) => four("4&0x3FFF=1:0x1FFF"),
        (Fragment::Not, false) => four("4&0x3FFF=0"),
        // IPv6 has no such bit, and the match has been rid of it.
        (Fragment::Dont, true) => Vec::new(),
        (Fragment::First, true) => vec!["-m frag --fragfirst --fragmore".to_owned()],
        (Fragment::Is, true) => {
            let why = "ip6tables cannot ask for an offset: the first fragment and whole packets with a fragment header \
                       are hit too";
            lose(losses, Loss::wider("frag", kind, why));
            vec!["-m ipv6header --header frag --soft".to_owned()]
        }
        (Fragment::Last, true) => {
            lose(losses, Loss::wider("frag", kind, "whole packets with a fragment header (RFC 6946) are hit too"));
            vec!["-m frag --fraglast".to_owned()]
        }
        (Fragment::Not, true) => {
            vec!["-m ipv6header ! --header frag --soft".to_owned(), "-m frag --fragfirst --fraglast".to_owned()]
        }
    }
}

/// Payloads begin elsewhere in each protocol: one alternative for each.
fn payloads(own: &FlowMatch, losses: &mut Vec<Loss>) -> Result<Vec<String>, CannotSay> {
    let six = terms::is_six(own);
    let mut all = Vec::new();
    let protos = (0..=255u8).filter(|proto| own.proto.contains(*proto) && !(six && EXTENSIONS.contains(proto)));
    let protos: Vec<u8> = protos.collect();
    if protos.len() > 8 {
        return Err(CannotSay::new(
            "it knows where a payload begins only by the protocol, and these are many",
            "name the protocol, for example `udp`, or use nftables",
        ));
    }
    if six {
        let asked = own.payload.iter().map(ToString::to_string).collect::<Vec<_>>().join(" payload ");
        let why = "the bytes are found only where nothing stands between the IPv6 header and the protocol's: packets \
                   with extension headers pass";
        lose(losses, Loss::narrower("payload", asked, why));
    }
    for proto in protos {
        let start = match (proto, six) {
            (TCP, false) => Start::FourTcp,
            (TCP, true) => Start::SixTcp,
            (UDP | ICMP | ICMPV6, false) => Start::Four(8),
            (UDP | ICMP | ICMPV6, true) => Start::Six(proto, 8),
            (_, false) => Start::Four(0),
            (_, true) => Start::Six(proto, 0),
        };
        // `-p 0` would be any protocol.
        let mut parts = vec![if proto == 0 { u32::test("6&0xFF=0") } else { format!("-p {proto}") }];
        for pattern in &own.payload {
            let (test, missed) = u32::payload(pattern, start);
            parts.push(test);
            if missed {
                let why = "four bytes are read at once: packets whose payload ends within them pass";
                lose(losses, Loss::narrower("payload", pattern, why));
            }
        }
        all.push(parts.join(" "));
    }
    Ok(all)
}
