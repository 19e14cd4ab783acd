//! nftables and iptables: their own parsers, the kernel, and real packets.

use std::process::Command;

use ftagent::{
    decide::Packet,
    rule::{
        Action, Family, FlowMatch,
        vendor::{Options, Widening},
    },
};
use ftagent_tests::{
    daemon::{PATIENCE, wait_for},
    peers::need,
    require_root,
    sandbox::{Sandbox, Veth},
};

use super::{draw, packets, platform, run};

fn options(name: &str, interface: Option<&str>) -> Options {
    Options::new(name, interface).unwrap()
}

#[test]
fn nft_takes_every_rule_and_gives_it_back() {
    require_root!();
    if !need("texts for nftables", &["nft"]) {
        return;
    }
    Sandbox::run(|sandbox| {
        sandbox.veth("v0", "p0").unwrap();
        let mut taken = 0;
        for (matches, action) in draw::rules(11, 80, false).iter().zip(draw::actions(12)) {
            for interface in [None, Some("v0")] {
                let text = (platform("nftables").rule)(matches, action, &options("tools", interface));
                let text = text.unwrap_or_else(|cannot| panic!("{matches} then {action}: {cannot}"));
                assert!(text.losses.is_empty(), "{matches}");
                for arguments in [["-c", "-f", "-"].as_slice(), &["-f", "-"], &["-f", "-"]] {
                    let (well, said) = run(Command::new("nft").args(arguments), &text.text);
                    assert!(well, "{matches} then {action}: {said}\n{}", text.text);
                }
                let (well, said) = run(Command::new("sh").args(["-e", "-x", "-"]), &text.undo);
                assert!(well, "{said}");
                let left = sandbox.command("nft list ruleset").unwrap();
                assert!(left.trim().is_empty(), "{left}");
                taken += 1;
            }
        }
        assert_eq!(taken, 160);
        let (well, _) =
            run(Command::new("nft").args(["-c", "-f", "-"]), "table inet x { chain y { udp sprot 1 drop; }; }\n");
        assert!(!well, "nft takes anything");
    })
    .unwrap();
}

#[test]
fn iptables_takes_every_rule_and_gives_it_back() {
    require_root!();
    if !need("texts for iptables", &["iptables-restore", "ip6tables-restore"]) {
        return;
    }
    for (name, save) in [("iptables", "iptables-save"), ("ip6tables", "ip6tables-save")] {
        Sandbox::run(|sandbox| {
            let (mut taken, mut refused) = (0, Vec::new());
            let restore = format!("{name}-restore");
            for (matches, action) in draw::rules(13, 120, false).iter().zip(draw::actions(14)) {
                if !platform(name).concerns(matches.family()) {
                    continue;
                }
                let interface = if taken % 2 == 0 { None } else { Some("lo") };
                let text = match (platform(name).rule)(matches, action, &options("ftagent-tools-99", interface)) {
                    Ok(text) => text,
                    Err(cannot) => {
                        refused.push(format!("{matches}: {cannot}"));
                        continue;
                    }
                };
                for arguments in [["--test", "--noflush"].as_slice(), &["--noflush"]] {
                    let (well, said) = run(Command::new(&restore).args(arguments), &text.text);
                    assert!(well, "{matches} then {action}: {said}\n{}", text.text);
                }
                let (well, said) = run(Command::new("sh").args(["-e", "-x", "-"]), &text.undo);
                assert!(well, "{matches}: {said}");
                let left = sandbox.command(&format!("{save} -t raw")).unwrap();
                assert!(!left.contains("ftagent"), "{left}");
                taken += 1;
            }
            assert!(taken >= 60 && refused.len() < 20, "{taken} are taken, not {refused:#?}");
            let (well, _) = run(Command::new(&restore).arg("--test"), "*raw\n-A PREROUTING -p udp --sprot 1\nCOMMIT\n");
            assert!(!well, "{restore} takes anything");
        })
        .unwrap();
    }
}

/// Sends frames as they are, from the peer.
pub fn send(sandbox: &Sandbox, veth: &Veth, frames: impl Iterator<Item = Vec<u8>>) {
    const SCRIPT: &str = "import socket,sys\ns=socket.socket(socket.AF_PACKET,socket.SOCK_RAW)\n\
                          s.bind((sys.argv[1],0))\nfor line in sys.stdin: s.send(bytes.fromhex(line))\n";
    let mut lines = String::new();
    for mut frame in frames {
        // Packets for other machines are dropped before any rule.
        frame[..6].copy_from_slice(&veth.here.mac.0);
        lines.extend(frame.iter().map(|byte| format!("{byte:02x}")));
        lines.push('\n');
    }
    let interface = veth.peer.name.clone();
    let sent = sandbox.peer(|| run(Command::new("python3").args(["-c", SCRIPT, &interface]), &lines)).unwrap();
    assert!(sent.0, "{}", sent.1);
}

/// Rules by whether first fragments are to them what they are to the agent.
fn looks_behind_ip(matches: &FlowMatch) -> bool {
    let FlowMatch { port, sport, dport, icmp_type, icmp_code, flags, payload, .. } = matches;
    let fields = [port, sport, dport].into_iter().all(ftagent::rule::Ranges::is_any);
    !(fields && icmp_type.is_any() && icmp_code.is_any() && flags.is_empty() && payload.is_empty())
}

/// Where rules are counted, and what is asked of them.
pub struct Counted {
    pub matches: FlowMatch,
    /// How the platform is called, and its command that shows what was counted.
    pub what: String,
    /// What stands before the figure.
    pub read: Box<dyn Fn(&Sandbox) -> u64>,
    /// Of one family alone.
    pub family: Option<Family>,
    /// What it says it matches beyond the rule.
    pub widened: Vec<Widening>,
}

pub fn number_after(text: &str, mark: &str) -> u64 {
    let rest = text.split_once(mark).unwrap_or_else(|| panic!("no `{mark}` in {text}")).1;
    rest.chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap()
}

pub fn install_nft(matches: &FlowMatch, name: String, interface: Option<&str>) -> Option<Counted> {
    let text = match (platform("nftables").rule)(matches, Action::Count, &options(&name, interface)) {
        Ok(text) => text,
        // ICMPv6 in IPv4, which nobody sends.
        Err(cannot) => {
            assert!(cannot.what.contains("no packet"), "{matches}: {cannot}");
            return None;
        }
    };
    let (well, said) = run(Command::new("nft").args(["-f", "-"]), &text.text);
    assert!(well, "{said}");
    let family = if interface.is_some() { "netdev" } else { "inet" };
    let what = format!("nft {family}\n{}", text.text);
    let read = move |sandbox: &Sandbox| {
        let text = sandbox.command(&format!("nft list chain {family} {name} verdict")).unwrap();
        number_after(&text, "counter packets ")
    };
    Some(Counted { matches: matches.clone(), what, read: Box::new(read), family: None, widened: text.widened })
}

pub fn install_iptables(matches: &FlowMatch, command: &'static str, name: String) -> Option<Counted> {
    let text = (platform(command).rule)(matches, Action::Count, &options(&name, None)).ok()?;
    if !text.losses.is_empty() {
        return None;
    }
    let (well, said) = run(Command::new(format!("{command}-restore")).arg("--noflush"), &text.text);
    assert!(well, "{said}");
    let what = format!("{command}\n{}", text.text);
    let read = move |sandbox: &Sandbox| {
        let all = sandbox.command(&format!("{command}-save -c -t raw")).unwrap();
        let line = all.lines().find(|line| line.contains(&format!("-A {name}-limit -j RETURN"))).unwrap().to_owned();
        number_after(&line, "[")
    };
    let (matches, family) = (matches.clone(), platform(command).family);
    Some(Counted { matches, what, read: Box::new(read), family, widened: text.widened })
}

/// Counts what arrives at `v0` behind all that counts here.
pub fn count_arrivals() {
    let came = "add table inet came\nadd counter inet came seen\n\
                add chain inet came in { type filter hook prerouting priority 300; }\n\
                add rule inet came in iifname v0 counter name seen\n";
    let (well, said) = run(Command::new("nft").args(["-f", "-"]), came);
    assert!(well, "{said}");
}

/// Waits until so many packets have come in all.
pub fn wait_for_arrivals(sandbox: &Sandbox, sent: u64) {
    let arrived = || {
        let count = number_after(&sandbox.command("nft list counter inet came seen").ok()?, "packets ");
        (count >= sent).then_some(())
    };
    wait_for("every packet", PATIENCE, arrived).unwrap();
}

/// Counts, not drops, so that every rule sees every packet.
#[test]
fn packets_are_matched_as_the_rule_says() {
    require_root!();
    if !need("packets and rules as texts", &["nft", "iptables-restore", "ip6tables-restore", "python3"]) {
        return;
    }
    Sandbox::run(|sandbox| {
        let veth = sandbox.veth("v0", "p0").unwrap();
        let packets = packets::packets();
        let mut all = Vec::new();
        for (number, matches) in draw::rules(15, 60, false).iter().enumerate() {
            all.extend(install_nft(matches, format!("i{number}"), None));
            all.extend(install_nft(matches, format!("d{number}"), Some("v0")));
            for (command, short) in [("iptables", "t"), ("ip6tables", "s")] {
                if platform(command).concerns(matches.family()) {
                    all.extend(install_iptables(matches, command, format!("{short}{number}")));
                }
            }
        }
        assert!(all.len() > 150, "{} are there", all.len());
        count_arrivals();
        let (mut hits, mut sent) = (0, 0);
        for first in [false, true] {
            let chosen: Vec<&packets::Sent> = packets.iter().filter(|sent| sent.first == first).collect();
            let before: Vec<u64> = all.iter().map(|one| (one.read)(sandbox)).collect();
            send(sandbox, &veth, chosen.iter().map(|sent| sent.frame.clone()));
            sent += chosen.len() as u64;
            wait_for_arrivals(sandbox, sent);
            for (one, before) in all.iter().zip(before) {
                if first && looks_behind_ip(&one.matches) {
                    continue;
                }
                let family = |frame: &[u8]| if frame[12..14] == [8, 0] { Family::Ip4 } else { Family::Ip6 };
                let wanted = chosen.iter().filter(|sent| {
                    let mut packet = Packet::decode(0, &sent.frame, sent.frame.len(), None, false);
                    // The agent does not note which of an IPv6 datagram's fragments is the last.
                    if packet.fragment.is_some_and(|fragment| !fragment.more && fragment.offset != 0) {
                        packet.key.fragment |= ftagent_common::rules::fragment::LAST;
                    }
                    one.family.is_none_or(|own| own == family(&sent.frame)) && one.matches.matches(&packet.subject())
                });
                let (wanted, found) = (wanted.count() as u64, (one.read)(sandbox) - before);
                assert_eq!(
                    found,
                    wanted,
                    "`{}` of {} packets (first fragments: {first}) by {}",
                    one.matches,
                    chosen.len(),
                    one.what
                );
                hits += wanted;
            }
        }
        assert!(hits > 5_000, "{hits} packets matched, which is hardly a test");
    })
    .unwrap();
}
