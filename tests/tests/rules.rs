//! Signature rules in the kernel program: what it does to each packet is what the rules say.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "rules/capture.rs"]
mod capture;
#[path = "rules/draw.rs"]
mod draw;
#[path = "rules/enforce.rs"]
mod enforce;
#[path = "rules/rate.rs"]
mod rate;

use std::{
    cell::RefCell,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    thread,
};

use aya::{TestRunOptions, programs::TestRun as _};
use ftagent::{
    bpf::{
        Loader,
        counters::CounterReader,
        lists::Which,
        load::{fd, program},
        rules::{KernelRules, Placed, RulesError, compile::compile},
        testrun::{JIFFY_NS, TestRun, jiffies},
    },
    decide::Packet,
    rule::{Action, Origin, Rate, Rule},
};
use ftagent_common::{
    DropReason,
    abi::{Sampling, features, maps, programs},
    class::CLASS_SLOTS,
    reason::verdict,
    sample::SampleHeader,
};
use ftagent_tests::{
    packet::{Ipv4, Ipv6, Tcp, Transport, Udp, flags},
    require_root,
};
use proptest::{
    collection::vec,
    test_runner::{Config, TestCaseError, TestRunner},
};

/// Jiffies in a virtual second.
const HZ: u64 = 1_000_000_000 / JIFFY_NS;

fn rule(matches: &str, action: Action) -> Rule {
    Rule { matches: matches.parse().unwrap(), action, origin: Origin::Config, reason: "a test".into() }
}

fn placed(slot: u8, matches: &str, action: Action) -> Placed {
    Placed { slot, rule: rule(matches, action), expires: u64::MAX }
}

/// The kernel program with every packet sampled.
fn datapath() -> TestRun {
    let mut run = TestRun::new(1).unwrap();
    run.set_sampling(Sampling { stride: [1; CLASS_SLOTS], burst: u32::MAX, _pad: 0 }).unwrap();
    run
}

/// What became of a packet: the verdict, the reason, and the rule in its sample, slot + 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Fate {
    verdict: u32,
    reason: Option<DropReason>,
    rule: u32,
}

const PASSED: Fate = Fate { verdict: verdict::PASS, reason: None, rule: 0 };

fn dropped(slot: u8, reason: DropReason) -> Fate {
    Fate { verdict: verdict::DROP, reason: Some(reason), rule: u32::from(slot) + 1 }
}

fn feed(run: &mut TestRun, frame: &[u8]) -> Fate {
    let verdict = run.run(frame).unwrap();
    let header: SampleHeader = run.next_sample().unwrap().header;
    assert_eq!(u32::from(header.verdict), verdict);
    Fate { verdict, reason: DropReason::from_index(header.reason.into()), rule: header.rule }
}

/// What a plain reading of the rules makes of a packet, and the slots that count it.
fn plain(rules: &[Placed], frame: &[u8], now: u64) -> (Fate, Vec<u8>) {
    let packet = Packet::decode(0, frame, frame.len(), None, false);
    let subject = packet.subject();
    let (mut fate, mut counted) = (PASSED, Vec::new());
    for Placed { slot, rule, expires } in rules {
        if now >= *expires || !rule.matches.matches(&subject) {
            continue;
        }
        counted.push(*slot);
        match rule.action {
            Action::Count if fate.rule == 0 => fate.rule = u32::from(*slot) + 1,
            Action::Count | Action::Capture => {}
            Action::Drop => return (dropped(*slot, DropReason::Rule), counted),
            Action::RateLimit(Rate::Pps(0)) => return (dropped(*slot, DropReason::RateLimit), counted),
            _ => return (Fate { rule: u32::from(*slot) + 1, ..PASSED }, counted),
        }
    }
    (fate, counted)
}

#[test]
fn the_kernel_does_what_the_rules_say() {
    require_root!();
    let run = RefCell::new(datapath());
    let mut runner = TestRunner::new(Config { cases: cases(), failure_persistence: None, ..Config::default() });
    let strategy = (draw::rules(), vec(draw::frame(), 24));
    let result = runner.run(&strategy, |(rules, frames)| compare(&mut run.borrow_mut(), &rules, &frames));
    if let Err(error) = result {
        panic!("{error}");
    }
}

/// How many sets of rules are drawn; `PROPTEST_CASES` asks for more.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(400)
}

/// Leaves out what is behind the first rule that does not fit the table.
fn fitting(rules: &[Placed]) -> &[Placed] {
    match compile(rules) {
        Err(RulesError::Compile { slot, .. }) => {
            let at = rules.iter().position(|placed| placed.slot == slot).unwrap();
            rules.get(..at).unwrap_or_default()
        }
        _ => rules,
    }
}

fn compare(run: &mut TestRun, rules: &[Placed], frames: &[Vec<u8>]) -> Result<(), TestCaseError> {
    let rules = fitting(rules);
    let fail = |what: String| TestCaseError::fail(what);
    run.set_time(draw::NOW * JIFFY_NS);
    let now = jiffies(draw::NOW * JIFFY_NS);
    run.rules.install(&[], HZ).map_err(|error| fail(error.to_string()))?;
    run.rules.install(rules, HZ).map_err(|error| fail(error.to_string()))?;
    let mut counts = [(0u64, 0u64, 0u64); 256];
    for frame in frames {
        let (expected, counted) = plain(rules, frame, now);
        let fate = feed(run, frame);
        if fate != expected {
            return Err(fail(format!("{fate:?} instead of {expected:?} for {frame:02x?}")));
        }
        for slot in counted {
            let count = &mut counts[usize::from(slot)];
            let drops = u64::from(expected.verdict == verdict::DROP && expected.rule == u32::from(slot) + 1);
            *count = (count.0 + 1, count.1 + frame.len() as u64, count.2 + drops);
        }
    }
    let counters = run.rules.counters().map_err(|error| fail(error.to_string()))?;
    for placed in rules {
        let (counter, expected) = (counters.slots[usize::from(placed.slot)], counts[usize::from(placed.slot)]);
        if (counter.packets, counter.bytes, counter.dropped) != expected {
            return Err(fail(format!("{counter:?} instead of {expected:?} for `{}`", placed.rule.matches)));
        }
    }
    Ok(())
}

/// Sets that divide the addresses into 2 to 513 intervals, and the addresses at both ends of each.
#[test]
fn every_interval_of_addresses_is_found() {
    require_root!();
    let mut run = datapath();
    for (rules, side) in
        [1, 3, 4, 15, 16, 31, 32, 63, 64, 127, 255, 256].into_iter().flat_map(|n| [(n, "src"), (n, "dst")])
    {
        // From the first prefix's own end at 1.0.0.0 on, with gaps between them; the last bits count.
        let v4: Vec<u32> = (0..rules).map(|i| 0x0100_0000 + i * 0x003f_0101 * (256 / rules)).collect();
        // Spread, so that their first halves differ, and all of one network.
        let spread = |i: u128| 0x2001 << 112 | i << (100 - i % 90) | i << 10 | 0x15;
        let of_one_network = |i: u128| 0x2001 << 112 | i << (56 - i % 50) | 0x15;
        let v6 = [spread, of_one_network].map(|of| (0..u128::from(rules)).map(of).collect::<Vec<u128>>());
        let host = |i: u8, address: IpAddr| placed(i, &format!("{side} {address}"), Action::Drop);
        let rules4: Vec<_> = (0..=255).zip(&v4).map(|(i, bits)| host(i, Ipv4Addr::from(*bits).into())).collect();
        let inner = Udp::new(5000, 6000, &[]).build();
        run.rules.install(&rules4, HZ).unwrap();
        for bits in v4.iter().flat_map(|bits| [bits - 1, *bits, bits + 1]).chain([0x0a00_0000, 0xdfff_ffff]) {
            let address = Ipv4Addr::from(bits);
            let ip = if side == "src" { Ipv4::from(address) } else { Ipv4 { dst: address, ..Ipv4::new() } };
            let frame = ip.frame(&inner);
            assert_eq!(feed(&mut run, &frame), plain(&rules4, &frame, 0).0, "{address} of {rules}");
        }
        for v6 in v6 {
            let rules6: Vec<_> = (0..=255).zip(&v6).map(|(i, bits)| host(i, Ipv6Addr::from(*bits).into())).collect();
            run.rules.install(&rules6, HZ).unwrap();
            for bits in v6.iter().flat_map(|bits| [bits - 1, *bits, bits + 1]).chain([2, u128::MAX >> 8, u128::MAX]) {
                let address = Ipv6Addr::from(bits);
                let ip = if side == "src" { Ipv6::from(address) } else { Ipv6 { dst: address, ..Ipv6::new() } };
                let frame = ip.frame(&inner);
                assert_eq!(feed(&mut run, &frame), plain(&rules6, &frame, 0).0, "{address} of {rules}");
            }
        }
    }
}

/// A pattern matches where all its bytes lie inside the IP packet, however little is behind it.
#[test]
fn patterns_at_the_end_of_the_packet() {
    require_root!();
    let mut run = datapath();
    let bytes: Vec<u8> = (1..=80).collect();
    let frames = |payload: &[u8]| {
        let udp = Udp::new(5000, 6000, payload).build();
        let tcp = Tcp { payload: payload.to_vec(), ..Tcp::to(80, flags::ACK) }.build();
        let other = Transport::raw(253, payload);
        [&udp, &tcp, &other].map(|inner| [Ipv4::new().frame(inner), Ipv6::new().frame(inner)]).concat()
    };
    for (offset, length) in [(0usize, 1usize), (0, 4), (0, 8), (0, 9), (3, 7), (20, 32), (60, 4), (63, 1)] {
        let hex: String = bytes[offset..offset + length].iter().map(|byte| format!("{byte:02x}")).collect();
        run.rules.install(&[placed(4, &format!("payload {offset}:{hex}"), Action::Drop)], HZ).unwrap();
        for present in 0..=bytes.len() {
            for mut frame in frames(&bytes[..present]) {
                let expected = if present >= offset + length { dropped(4, DropReason::Rule) } else { PASSED };
                assert_eq!(feed(&mut run, &frame), expected, "{offset}:{hex} in {present} bytes: {frame:02x?}");
                // Ethernet padding that would go on as the payload does is no payload.
                frame.extend(&bytes[present..]);
                assert_eq!(feed(&mut run, &frame), expected, "{offset}:{hex} in {present} bytes and padding");
            }
        }
    }
}

#[test]
fn a_rule_that_is_not_renewed_lapses_by_itself() {
    require_root!();
    let mut run = datapath();
    let frame = Ipv4::new().frame(&Udp::new(123, 40000, &[7; 400]).build());
    run.set_time(0);
    let ends = jiffies(1_000_000_000);
    let rule = Placed { expires: ends, ..placed(9, "udp sport 123", Action::Drop) };
    run.rules.install(std::slice::from_ref(&rule), HZ).unwrap();
    assert_eq!(feed(&mut run, &frame), dropped(9, DropReason::Rule));
    run.set_time(1_000_000_000 - 1);
    assert_eq!(feed(&mut run, &frame), dropped(9, DropReason::Rule));
    run.set_time(1_000_000_000);
    assert_eq!(feed(&mut run, &frame), PASSED, "the daemon has died a second ago");
    run.rules.renew(9, ends + HZ);
    assert_eq!(feed(&mut run, &frame), dropped(9, DropReason::Rule), "it lives again");
    assert_eq!(run.rules.present(), [(9, ends + HZ)]);
}

#[test]
fn the_allow_list_overrules_any_rule() {
    require_root!();
    let mut run = datapath();
    for (frame, allowed) in [
        (Ipv4::new().frame(&Udp::new(123, 40000, &[7; 400]).build()), "192.0.2.0/24"),
        (Ipv6::new().frame(&Udp::new(123, 40000, &[7; 400]).build()), "2001:db8::/48"),
    ] {
        for (action, reason) in
            [(Action::Drop, DropReason::Rule), (Action::RateLimit(Rate::Pps(0)), DropReason::RateLimit)]
        {
            run.rules.install(&[], HZ).unwrap();
            run.rules.install(&[placed(0, "udp sport 123", action)], HZ).unwrap();
            assert_eq!(feed(&mut run, &frame), dropped(0, reason));
            let overruled = run.counters().unwrap().overruled;
            run.lists.insert(Which::Allow, allowed.parse().unwrap(), u64::MAX, 0).unwrap();
            assert_eq!(feed(&mut run, &frame), PASSED, "{allowed} is allowed");
            assert_eq!(run.counters().unwrap().overruled, overruled + 1);
            run.lists.remove(Which::Allow, allowed.parse().unwrap()).unwrap();
            let counter = run.rules.counters().unwrap().slots[0];
            assert_eq!((counter.packets, counter.dropped), (2, 1), "it matched both, and dropped one");
        }
    }
}

#[test]
fn block_lists_come_before_rules() {
    require_root!();
    let mut run = datapath();
    let frame = Ipv4::new().frame(&Udp::new(123, 40000, &[7; 400]).build());
    run.rules.install(&[placed(0, "udp sport 123", Action::Drop)], HZ).unwrap();
    run.lists.insert(Which::Block, "192.0.2.1/32".parse().unwrap(), u64::MAX, 0).unwrap();
    let blocked = Fate { verdict: verdict::DROP, reason: Some(DropReason::BlockAddress), rule: 0 };
    assert_eq!(feed(&mut run, &frame), blocked);
    assert_eq!(run.rules.counters().unwrap().slots[0].packets, 0);
}

/// Two sets of which each drops the packet, changed as fast as it goes while packets come: none may
/// pass. In the second pair the rule that drops in one set only counts in the other.
#[test]
fn no_packet_meets_half_a_set() {
    require_root!();
    let frame = Ipv4::new().frame(&Udp::new(123, 40000, &[7; 400]).build());
    let (count, drop) = (Action::Count, Action::Drop);
    let pairs = [
        [vec![placed(1, "udp sport 123", drop)], vec![placed(2, "udp len 400-500", drop)]],
        [
            vec![placed(3, "udp sport 123", drop), placed(4, "ttl 64", count)],
            vec![placed(3, "udp sport 123", count), placed(4, "ttl 64", drop)],
        ],
    ];
    for sets in pairs {
        let mut ebpf = Loader { slot: 0, replay: false, features: features::ALL, pins: None }.load().unwrap();
        let mut rules = KernelRules::open(&ebpf).unwrap();
        rules.install(&sets[0], HZ).unwrap();
        let flipper = thread::spawn(move || {
            for i in 1..40 {
                rules.install(&sets[i % 2], HZ).unwrap();
            }
        });
        while !flipper.is_finished() {
            let options = TestRunOptions { data_in: Some(&frame), repeat: 10_000, ..TestRunOptions::new() };
            program(&mut ebpf, programs::DATAPATH).unwrap().test_run(options).unwrap();
        }
        flipper.join().unwrap();
        let counters = CounterReader::new().unwrap().total(fd(&ebpf, maps::COUNTERS).unwrap(), 0).unwrap();
        assert_eq!(counters.verdicts[verdict::PASS as usize], 0, "{counters:?}");
        assert_ne!(counters.verdicts[verdict::DROP as usize], 0);
    }
}

#[test]
fn a_rule_for_either_port_counts_a_packet_once() {
    require_root!();
    let mut run = datapath();
    let rule = placed(0, "udp port 53", Action::Count);
    run.rules.install(&[rule], HZ).unwrap();
    for (src, dst) in [(53, 53), (53, 1000), (1000, 53), (1000, 1000)] {
        feed(&mut run, &Ipv4::new().frame(&Udp::new(src, dst, &[0; 20]).build()));
    }
    assert_eq!(run.rules.counters().unwrap().slots[0].packets, 3);
}
