//! The nftables plane against the kernel: what its rules do to packets, how they end, and what becomes
//! of them beside others' rules.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    cell::Cell,
    fs,
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::fs::PermissionsExt as _,
    },
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use ftagent::{
    act::nft::{Entry, Hook, Nft, NftError, NftPlane, Runner as _, Table},
    decide::mitigate::Wanted,
    rule::{Origin, Rule, parse},
};
use ftagent_tests::{
    packet::{Ipv4, Ipv6, Udp},
    peers::need,
    sandbox::{Sandbox, may_run, skip},
    traffic::packet_socket,
};
use nix::sys::socket::{MsgFlags, send};
use serde_json::json;

/// A sandbox with a veth, and a counter on either side of our table.
struct Stage<'a> {
    sandbox: &'a Sandbox,
    socket: OwnedFd,
    /// Frames that were sent since the counters are there.
    sent: Cell<u64>,
    passed: u64,
}

/// How long to wait for what takes a fraction of a second on an idle machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until something holds.
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "in vain: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

fn stage(what: &str, body: impl FnOnce(Stage<'_>) + Send) {
    if !may_run(what) || !need(what, &["nft"]) {
        return;
    }
    Sandbox::run(|sandbox| {
        let pair = sandbox.veth("eth0", "far0").unwrap();
        let socket = sandbox.peer(|| packet_socket(pair.peer.ifindex).unwrap()).unwrap();
        body(Stage { sandbox, socket, sent: Cell::new(0), passed: 0 });
    })
    .unwrap();
}

impl Stage<'_> {
    /// Hangs counters before and behind the table, which must be in place.
    fn behind(&mut self) {
        let commands = "add table netdev behind
            add chain netdev behind first { type filter hook ingress device eth0 priority -600; }
            add chain netdev behind last { type filter hook ingress device eth0 priority 10; }
            add counter netdev behind came
            add counter netdev behind passed
            add rule netdev behind first counter name came
            add rule netdev behind last counter name passed";
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), commands).unwrap();
        self.sandbox.command(&format!("nft -f {}", file.path().display())).unwrap();
        self.sent.set(0);
        self.passed = 0;
    }

    fn send(&self, frame: &[u8], count: usize) {
        self.sent.update(|sent| sent + count as u64);
        transmit(&self.socket, frame, count);
    }

    /// Returns how many of these packets passed our table.
    fn passed(&mut self, frame: &[u8], count: usize) -> u64 {
        self.send(frame, count);
        until("every packet arrives", || self.counted("came") >= self.sent.get());
        // Listed after the last one came, not with it: it has passed by now, or never will.
        let now = self.counted("passed");
        now - std::mem::replace(&mut self.passed, now)
    }

    fn counted(&self, name: &str) -> u64 {
        let counter = json!({ "family": "netdev", "table": "behind", "name": name });
        let listing = Nft::default().run(vec![json!({ "list": { "counter": counter } })]).unwrap();
        listing.iter().find_map(|object| object.pointer("/counter/packets")?.as_u64()).unwrap()
    }

    fn ruleset(&self) -> String {
        self.sandbox.command("nft list ruleset").unwrap()
    }
}

fn transmit(socket: &OwnedFd, frame: &[u8], count: usize) {
    for _ in 0..count {
        send(socket.as_raw_fd(), frame, MsgFlags::empty()).unwrap();
    }
}

fn table() -> Table {
    Table::new(Box::new(Nft::default()), vec!["eth0".to_owned()])
}

fn wanted(id: u32, text: &str, ttl_ms: u64) -> Wanted {
    let (matches, action) = parse(text).unwrap();
    Wanted { id, rule: Rule { matches, action, origin: Origin::Config, reason: "a test".into() }, ttl_ms }
}

fn ntp(bytes: usize) -> Vec<u8> {
    Ipv4::new().frame(&Udp::new(123, 40000, &vec![7; bytes]).build())
}

fn dns() -> Vec<u8> {
    Ipv6::new().frame(&Udp::new(53, 40000, &[7; 40]).build())
}

#[test]
fn rules_drop_count_and_go_without_a_trace() {
    stage("the nftables plane's rules", |mut stage| {
        let before = stage.ruleset();
        let mut table = table();
        let now = Instant::now();
        let mut rules =
            vec![wanted(1, "udp sport 123 len 400-500 then drop", 60_000), wanted(2, "port 53 then count", 60_000)];
        table.apply(&rules, now).unwrap();
        stage.behind();
        assert_eq!((stage.passed(&ntp(400), 10), stage.passed(&ntp(300), 10), stage.passed(&dns(), 7)), (0, 10, 7));
        let counts = table.counts().unwrap();
        let of = |id: u32, counts: &[ftagent::decide::mitigate::RuleCount]| {
            *counts.iter().find(|count| count.id == id).unwrap()
        };
        let first = of(1, &counts);
        assert_eq!(
            (first.packets, first.dropped, first.bytes, first.dropped_bytes),
            (10, 10, 4420, 4420),
            "bytes as on the wire"
        );
        let second = of(2, &counts);
        assert_eq!((second.packets, second.dropped), (7, 0));
        // The second becomes strict; the first is looked at no more, and what it did is told once more.
        stage.passed(&ntp(400), 5);
        rules.remove(0);
        rules[0] = wanted(2, "port 53 then drop", 60_000);
        table.apply(&rules, now).unwrap();
        assert_eq!((stage.passed(&ntp(400), 10), stage.passed(&dns(), 7)), (10, 0));
        let counts = table.counts().unwrap();
        assert_eq!((of(1, &counts).dropped, of(2, &counts).dropped), (5, 7));
        table.apply(&[wanted(3, "udp then drop", 60_000)], now).unwrap();
        assert_eq!(table.counts().unwrap().iter().map(|count| count.id).collect::<Vec<_>>(), [2, 3]);
        assert!(!stage.ruleset().contains("matched1"), "counters go once they were told");
        table.remove().unwrap();
        stage.sandbox.command("nft delete table netdev behind").unwrap();
        assert_eq!(stage.ruleset(), before, "nothing is left");
        table.remove().unwrap();
    });
}

#[test]
fn rules_end_by_themselves_when_the_daemon_dies() {
    stage("leases of nftables rules", |mut stage| {
        let mut table = table();
        let rules = [wanted(1, "udp sport 123 then drop", 8000), wanted(2, "udp sport 53 then drop", 600_000)];
        table.apply(&rules, Instant::now()).unwrap();
        stage.behind();
        // For longer than the lease, and each time well within it.
        for _ in 0..5 {
            thread::sleep(Duration::from_secs(2));
            assert_eq!((stage.passed(&ntp(9), 3), stage.passed(&dns(), 3)), (0, 0), "it is renewed");
            table.apply(&rules, Instant::now()).unwrap();
        }
        drop(table);
        until("the lease ends", || stage.passed(&ntp(9), 1) == 1);
        assert_eq!(stage.passed(&dns(), 3), 0, "each at its own time");
    });
}

#[test]
fn a_limit_lets_a_rate_pass() {
    stage("rate limits in nftables", |mut stage| {
        let mut table = table();
        table.apply(&[wanted(1, "udp sport 123 then rate-limit 400 pps", 60_000)], Instant::now()).unwrap();
        stage.behind();
        let begun = Instant::now();
        let passed = stage.passed(&ntp(9), 5000);
        let most = 11 + begun.elapsed().as_millis() as u64 * 400 / 1000;
        assert!((10..=most).contains(&passed), "{passed} of at most {most}");
        let count = table.counts().unwrap()[0];
        assert_eq!((count.packets, count.packets - count.dropped), (5000, passed));
    });
}

#[test]
fn what_another_changes_is_put_back() {
    stage("drift of the nftables table", |mut stage| {
        let mut table = table();
        let rules = [
            wanted(1, "udp sport 123 then drop", 60_000),
            wanted(2, "tcp port 80 payload 0:47 then rate-limit 5 pps", 60_000),
        ];
        let allow = vec![Entry { net: "203.0.113.0/24".parse().unwrap(), lasts: None }];
        table.set_lists(allow, Vec::new());
        table.apply(&rules, Instant::now()).unwrap();
        let drift = table.reconcile(&rules, Instant::now()).unwrap();
        assert_eq!((drift.wanted, drift.present, drift.missing), (2, 2, vec![]));
        for (line, missing) in [
            ("nft flush ruleset", 2),
            ("nft delete table netdev ftagent", 2),
            ("nft flush chain netdev ftagent v4", 0),
            ("nft flush set netdev ftagent lease1", 1),
            ("nft flush chain netdev ftagent ingress0", 0),
            ("nft flush chain netdev ftagent act2", 0),
            ("nft flush set netdev ftagent allow4", 0),
            ("nft insert rule netdev ftagent v4 accept", 0),
        ] {
            stage.sandbox.command(line).unwrap();
            let drift = table.reconcile(&rules, Instant::now()).unwrap();
            assert_eq!(drift.missing.len(), missing, "{line}: {drift:?}");
            let again = table.reconcile(&rules, Instant::now()).unwrap();
            assert_eq!((again.present, again.missing), (2, vec![]), "{line}");
            let _absent = stage.sandbox.command("nft delete table netdev behind");
            stage.behind();
            assert_eq!(stage.passed(&ntp(9), 3), 0, "{line}");
            assert!(stage.ruleset().contains("203.0.113.0/24"), "{line}");
        }
    });
}

#[test]
fn beside_iptables_nft() {
    stage("nftables beside iptables-nft", |stage| {
        if stage.sandbox.command("iptables-nft --version").is_err() {
            return skip("nftables beside iptables-nft", "there is no iptables-nft");
        }
        for line in [
            "iptables-nft -t raw -A PREROUTING -p udp --sport 123 -j ACCEPT",
            "iptables-nft -A INPUT -p udp --dport 40001 -j DROP",
            "ip6tables-nft -A INPUT -p udp --sport 53 -j ACCEPT",
        ] {
            stage.sandbox.command(line).unwrap();
        }
        let saved = || {
            stage
                .sandbox
                .command("iptables-nft-save")
                .unwrap()
                .lines()
                .filter(|line| line.starts_with('-'))
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        let (before, mut table) = (saved(), table());
        let rules = [wanted(1, "udp sport 123 then drop", 60_000)];
        table.apply(&rules, Instant::now()).unwrap();
        assert_eq!(saved(), before, "its tables are as they were");
        stage.send(&ntp(9), 4);
        let mut dropped = 0;
        until("its accept does not come before our drop", || {
            dropped += table.counts().unwrap()[0].dropped;
            dropped == 4
        });
        stage.sandbox.command("iptables-nft -F").unwrap();
        let drift = table.reconcile(&rules, Instant::now()).unwrap();
        assert_eq!((drift.present, drift.missing), (1, vec![]), "flushing its rules leaves ours");
        table.remove().unwrap();
        assert_eq!(saved().len(), 1, "removing ours leaves its");
    });
}

#[test]
fn an_interface_that_comes_back_is_protected_again() {
    stage("nftables on an interface that vanishes", |stage| {
        let rules = [wanted(1, "udp sport 123 then drop", 60_000)];
        let mut table = Table::new(Box::new(Nft::default()), vec!["eth0".to_owned(), "later0".to_owned()]);
        table.apply(&rules, Instant::now()).unwrap();
        assert!(!stage.ruleset().contains("later0"));
        for _ in 0..2 {
            stage.sandbox.command("ip link add later0 type veth peer name later1").unwrap();
            stage.sandbox.command("ip link set later0 up").unwrap();
            table.reconcile(&rules, Instant::now()).unwrap();
            assert!(stage.ruleset().contains("\"later0\""), "{}", stage.ruleset());
            stage.sandbox.command("ip link del later0").unwrap();
            table.reconcile(&rules, Instant::now()).unwrap();
            assert!(!stage.ruleset().contains("\"later0\"") && stage.ruleset().contains("\"eth0\""));
        }
        assert_eq!(table.hook(), Some(Hook::Ingress));
    });
}

#[test]
fn lists_of_many_prefixes() {
    stage("block lists in nftables", |mut stage| {
        let mut table = table();
        let entry = |net: String, lasts| Entry { net: net.parse().unwrap(), lasts };
        let hour = Some(Duration::from_secs(3600));
        let mut block: Vec<Entry> =
            (0..20_000u32).map(|i| entry(format!("10.{}.{}.0/{}", i >> 8 & 255, i & 255, 24 + i % 2), hour)).collect();
        block.push(entry("10.0.0.0/9".into(), Some(Duration::from_secs(10))));
        block.push(entry("192.0.2.1/32".into(), Some(Duration::from_secs(11))));
        block.push(entry("2001:db8::/32".into(), hour));
        table.set_lists(vec![entry("10.7.0.0/16".into(), None)], block);
        table.apply(&[], Instant::now()).unwrap();
        stage.behind();
        let from = |text: &str| {
            Ipv4::from(text.parse::<std::net::Ipv4Addr>().unwrap()).frame(&Udp::new(5, 6, &[1; 20]).build())
        };
        let passes = |stage: &mut Stage<'_>, frames: &[Vec<u8>]| {
            frames.iter().map(|frame| stage.passed(frame, 1)).collect::<Vec<_>>()
        };
        let frames = [from("10.0.3.9"), from("10.7.0.1"), from("192.0.2.1"), from("192.0.2.2"), dns(), ntp(9)];
        assert_eq!(passes(&mut stage, &frames), [0, 1, 0, 1, 0, 0]);
        until("entries end by themselves", || passes(&mut stage, &frames) == [0, 1, 1, 1, 0, 1]);
    });
}

/// Says so when it is dropped.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Two sets of which each drops the packet, changed as fast as it goes while packets come: none may pass.
#[test]
fn no_packet_meets_half_a_set() {
    stage("atomic changes of the nftables table", |mut stage| {
        let sets = [
            [wanted(1, "udp sport 123 then drop", 60_000), wanted(2, "ttl 64 then count", 60_000)],
            [wanted(1, "udp sport 123 then count", 60_000), wanted(3, "len 0-65535 ttl 64 then drop", 60_000)],
        ];
        let mut table = table();
        table.apply(&sets[0], Instant::now()).unwrap();
        stage.behind();
        let done = AtomicBool::new(false);
        let (frame, socket) = (ntp(9), &stage.socket);
        thread::scope(|scope| {
            // The sender ends where a change fails, too: the scope waits for it.
            let end = Done(&done);
            let sender = scope.spawn(|| {
                let mut sent = 0u64;
                while !done.load(Ordering::Relaxed) {
                    transmit(socket, &frame, 50);
                    sent += 50;
                }
                sent
            });
            for i in 1..40 {
                table.apply(&sets[i % 2], Instant::now()).unwrap();
            }
            drop(end);
            assert!(sender.join().unwrap() > 1000);
        });
        assert_eq!(stage.passed(&frame, 1), 0);
    });
}

#[test]
fn a_plane_on_a_thread_of_its_own() {
    stage("the nftables plane's thread", |mut stage| {
        let mut plane = NftPlane::spawn(Box::new(Nft::default()), vec!["eth0".to_owned()], || ()).unwrap();
        plane.set_lists(vec![Entry { net: "192.0.2.9/32".parse().unwrap(), lasts: None }], Vec::new());
        let begun = Instant::now();
        let rules = [wanted(1, "udp sport 123 then drop", 60_000), wanted(2, "tcp then challenge", 60_000)];
        // On a busy machine it may return before.
        let refused = loop {
            if let Err(errors) = plane.apply(&rules) {
                break errors.iter().map(ToString::to_string).collect::<Vec<_>>();
            }
            assert!(begun.elapsed() < PATIENCE);
        };
        assert!(refused.len() == 1 && refused[0].contains("`challenge` needs XDP"), "{refused:?}");
        stage.behind();
        assert_eq!(stage.passed(&ntp(9), 12), 0, "in force when it returns");
        let mut dropped = 0;
        until("all are counted", || {
            dropped += plane.counts().unwrap().iter().map(|count| count.dropped).sum::<u64>();
            dropped >= 12
        });
        stage.sandbox.command("nft delete table netdev ftagent").unwrap();
        until("it is put back by itself", || stage.passed(&ntp(9), 1) == 0);
        assert!(plane.slot(1).is_some() && plane.slot(2).is_none());
        plane.remove();
        assert!(!stage.ruleset().contains("ftagent"));
    });
}

#[test]
fn a_program_that_is_missing_or_misbehaves() {
    let dir = tempfile::tempdir().unwrap();
    let script = |name: &str, text: &str| {
        let path = dir.path().join(name);
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        Nft::at(path).with_patience(Duration::from_millis(500))
    };
    let list = || vec![json!({ "list": { "tables": null } })];
    let said = |nft: &mut Nft| nft.run(list()).unwrap_err().to_string();
    let missing = said(&mut Nft::at(dir.path().join("no-such-nft")));
    assert!(missing.contains("install nftables"), "{missing}");
    let refused = said(&mut script(
        "refuses",
        "echo 'internal:0:0-0: Error: Could not process rule: Operation not permitted' >&2; exit 1",
    ));
    assert_eq!(refused, "nftables refused: internal:0:0-0: Error: Could not process rule: Operation not permitted");
    let silent = said(&mut script("silent", "exit 3"));
    assert!(silent.contains("gave no reason"), "{silent}");
    let garbage = said(&mut script("garbage", "cat > /dev/null; echo '<html>'"));
    assert!(garbage.contains("not JSON"), "{garbage}");
    assert!(matches!(script("stalls", "exec sleep 60").run(list()), Err(NftError::Stalled(_))));
    let mut table = Table::new(Box::new(script("fails", "cat > /dev/null; exit 1")), vec!["lo".to_owned()]);
    assert!(table.apply(&[wanted(1, "udp then drop", 1000)], Instant::now()).is_err());
    assert_eq!(table.hook(), None);
}
