//! Captures: every packet that a rule names reaches the capture ring whole, with what was decided of it.

use ftagent::{
    act::enforcer::Enforcer,
    decide::mitigate::Wanted,
    rule::{Action, Origin, Rule},
};
use ftagent_common::{
    DropReason, TrafficClass,
    abi::Sampling,
    class::CLASS_SLOTS,
    reason::verdict,
    sample::{CAPTURE_BYTES, SampleHeader, flags as why},
};
use ftagent_tests::{
    packet::{Ipv4, Tcp, Udp},
    require_root,
};

use super::{HZ, datapath};
use ftagent::{act::enforcer::Jiffies, bpf::testrun::jiffies};

fn wanted(id: u32, matches: &str, action: Action) -> Wanted {
    let rule = Rule { matches: matches.parse().unwrap(), action, origin: Origin::Config, reason: "a test".into() };
    Wanted { id, rule, ttl_ms: 2000 }
}

fn udp(sport: u16, payload: usize) -> Vec<u8> {
    Ipv4::new().frame(&Udp::new(sport, 40000, &vec![7; payload]).build())
}

#[test]
fn every_packet_of_a_filter_is_captured_whole_with_its_verdict() {
    require_root!();
    let mut run = datapath();
    // No sampling to speak of: what is captured does not depend on it.
    run.set_sampling(Sampling { stride: [1 << 20; CLASS_SLOTS], burst: 1, _pad: 0 }).unwrap();
    let mut ring = run.captures().unwrap();
    let mut enforcer = Enforcer::new(run.open_rules().unwrap());
    run.set_time(0);
    let wants = [
        wanted(1, "udp sport 123", Action::Drop),
        wanted(3 << 30, "udp sport 100-200", Action::Capture),
        wanted(3 << 30 | 1, "udp dport 40000 sport 150", Action::Capture),
    ];
    enforcer.apply(&wants, Jiffies { now: jiffies(0), hz: HZ }).unwrap();
    // Source port, bytes of payload, bytes in the ring (0: it is not there), and whether it is dropped.
    let table = [
        (123, 4, 46, true),
        (123, 86, 128, true),
        (150, 87, 129, false),
        (150, 1400, 1442, false),
        (99, 1400, 0, false),
        (200, 3000, 3042, false),
    ];
    for (sport, payload, bytes, dropped) in table {
        let frame = udp(sport, payload);
        let expected = if dropped { verdict::DROP } else { verdict::PASS };
        // Test runs take a page of a frame; see the jumbo frame below.
        assert_eq!(run.run(&frame).unwrap(), expected, "{sport} {payload}");
        let Some(captured) = ring.take() else {
            assert_eq!(bytes, 0, "{sport} {payload}");
            continue;
        };
        assert_eq!((captured.bytes.len(), &captured.bytes), (bytes, &frame), "{sport} {payload}");
        let SampleHeader { wire_bytes, stride, class, verdict, reason, rule, flags, .. } = captured.header;
        assert_eq!((wire_bytes as usize, stride, flags), (bytes, 1, why::CAPTURED), "{sport} {payload}");
        assert_eq!(u32::from(verdict), expected, "{sport} {payload}");
        assert_eq!((reason == DropReason::Rule as u8, rule != 0), (dropped, dropped), "{sport} {payload}");
        assert_eq!(sport == 123, usize::from(class) == TrafficClass::UdpSrcNtp.index());
        assert!(ring.take().is_none(), "once, whatever captures it");
    }
    let counts = enforcer.counts().unwrap();
    let of = |id: u32| counts.iter().find(|count| count.id == id).map(|count| (count.packets, count.dropped));
    assert_eq!(of(1), Some((2, 2)), "what captures hides nothing from the rules behind it");
    assert_eq!(of(3 << 30), Some((5, 0)), "and counts what there was to capture");
    // What ends, ends.
    run.set_time(3_000_000_000);
    run.run(&udp(150, 4)).unwrap();
    assert!(ring.take().is_none());
}

#[test]
fn a_client_hello_that_is_sampled_is_there_whole() {
    require_root!();
    let mut run = datapath();
    let mut ring = run.captures().unwrap();
    let mut hello = vec![22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3];
    hello.resize(517, 9);
    let frame = |payload: &[u8]| Ipv4::new().frame(&Tcp::data(443, payload).build());
    run.run(&frame(&hello)).unwrap();
    let captured = ring.take().unwrap();
    assert_eq!(captured.bytes, frame(&hello));
    assert_eq!(captured.header.flags, why::HELLO);
    run.run(&frame(&hello[5..])).unwrap();
    assert!(ring.take().is_none(), "other data is not");
    assert!(frame(&hello).len() < CAPTURE_BYTES[2]);
}
