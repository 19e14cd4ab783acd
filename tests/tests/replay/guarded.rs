//! The TCP guard in virtual time: what the program decides about what it is told of sockets, and what a
//! replay makes of it.

use ftagent::{
    act::guard::{GuardDriver, GuardSettings},
    bpf::testrun::{HZ, TestRun},
    decide::guard::{Plan, Ports},
    replay::{Options, for_each_packet, run},
};
use ftagent_common::{
    DropReason,
    abi::Sampling,
    class::CLASS_SLOTS,
    guard::socket::{CONNECTED, LISTENER, NONE, UNCONNECTED, UNKNOWN},
    reason::verdict::{DROP, PASS, TX},
};
use ftagent_tests::{
    packet::{Ipv4, Tcp, Transport, Udp, flags},
    require_root,
};

use super::{Desk, captures};

const SETTINGS: GuardSettings = GuardSettings {
    syncookies: 1,
    timestamps: 1,
    mtu: 1500,
    answers_per_second: 1000,
    hz: HZ,
    many_routes: false,
    tags_lost: false,
};

/// The datapath with every packet sampled, and the guard armed for ports 443 and 53.
fn guarded() -> (TestRun, GuardDriver) {
    let mut datapath = TestRun::new(1).unwrap();
    datapath.set_sampling(Sampling { stride: [1; CLASS_SLOTS], burst: u32::MAX, _pad: 0 }).unwrap();
    let mut driver = GuardDriver::new(datapath.open_guard().unwrap());
    driver.set_own([Ipv4::new().dst.into()].into()).unwrap();
    let plan = Plan { cookies: [443].into(), state: [Ports::of(443)].into(), closed: [Ports::of(53)].into() };
    driver.apply(&plan, &SETTINGS, u64::MAX);
    (datapath, driver)
}

/// A packet, what the program is told of its socket and of room for it, and the verdict with its reason.
type Case<'a> = (&'a str, &'a Transport, u8, bool, (u32, Option<DropReason>));

#[test]
fn what_the_program_is_told_of_sockets_decides() {
    require_root!();
    let (out_of_state, closed) = (Some(DropReason::OutOfState), Some(DropReason::ClosedPort));
    let tcp = |port, flags| Tcp::to(port, flags).build();
    let (syn, ack) = (tcp(443, flags::SYN), tcp(443, flags::ACK));
    let udp = |port| Udp::new(4000, port, b"question").build();
    let cases: [Case<'_>; 12] = [
        ("a SYN to a listener whose queue is full", &syn, LISTENER, false, (TX, None)),
        ("a SYN to a listener that has room", &syn, LISTENER, true, (PASS, None)),
        ("a SYN to a port that nobody listens on", &syn, NONE, false, (DROP, out_of_state)),
        ("a SYN of a connection", &syn, CONNECTED, false, (PASS, None)),
        ("a segment of a connection", &ack, CONNECTED, false, (PASS, None)),
        ("a segment of none", &ack, NONE, false, (DROP, out_of_state)),
        ("a segment that only a listener is there for", &ack, LISTENER, false, (DROP, out_of_state)),
        ("nothing is known", &ack, UNKNOWN, false, (PASS, None)),
        ("another port", &tcp(80, flags::ACK), NONE, false, (PASS, None)),
        ("a datagram to a closed port", &udp(53), NONE, false, (DROP, closed)),
        ("a datagram to an open port", &udp(53), UNCONNECTED, false, (PASS, None)),
        ("a datagram to a port that is not armed", &udp(123), NONE, false, (PASS, None)),
    ];
    let (mut datapath, _driver) = guarded();
    for (number, (what, inner, told, room, (verdict, reason))) in (1..).zip(cases) {
        datapath.set_time(number * 1_000_000_000);
        datapath.set_socket(told, room);
        assert_eq!(datapath.run(&Ipv4::new().frame(inner)).unwrap(), verdict, "{what}");
        let header = datapath.next_sample().unwrap().header;
        // A SYN that may be answered is sampled before it is known what becomes of it: as passed.
        let judged = reason.filter(|_| u32::from(header.verdict) == verdict);
        assert_eq!(DropReason::from_index(header.reason.into()), judged, "{what}");
    }
    let mut elsewhere = Ipv4::new();
    elsewhere.dst = [198, 51, 100, 77].into();
    datapath.set_socket(NONE, false);
    assert_eq!(datapath.run(&elsewhere.frame(&ack)).unwrap(), PASS, "an address that is not this host's own");

    datapath.set_socket(LISTENER, false);
    let frame = Ipv4::new().frame(&syn);
    let verdicts: Vec<u32> = (0..2 * SETTINGS.answers_per_second).map(|_| datapath.run(&frame).unwrap()).collect();
    assert_eq!((verdicts[0], verdicts.last()), (TX, Some(&DROP)), "no more answers than may be given");
}

#[test]
fn a_replay_arms_the_guard_and_counts_whom_it_answers() {
    let Some(captures) = captures("a_replay_arms_the_guard_and_counts_whom_it_answers") else { return };
    let desk = Desk::new();
    let text = r#"
        duration = "52s"
        seed = 11

        [[source]]
        name = "customers"
        file = "@/benign_flash_crowd/visakhsuku+pcaps__http_1010_connections.pcap"
        label = "benign"
        pps = 400
        loop = true
        victim = "192.168.1.5"
        rewrite = { dst = "198.51.100.10" }

        [[source]]
        name = "flood"
        file = "@/syn_flood/niesuv+cic__syn_with_lan_noise_sll.pcap"
        label = "attack"
        start = "42s"
        pps = 6000
        loop = true
        victim = "192.168.42.210"
        rewrite = { dst = "198.51.100.10", src = "spoof" }
    "#;
    let scenario = desk.write("scenario.toml", text.replace("@/", &format!("{}/", captures.display())));
    let (passed, dropped) = (desk.path("passed.pcap"), desk.path("dropped.pcap"));
    let options = Options {
        scenario: Some(scenario),
        out_passed: Some(passed.clone()),
        out_dropped: Some(dropped.clone()),
        ..Options::default()
    };
    let report = run(&options).unwrap();
    assert!(
        report.notices.iter().any(|notice| notice.what.contains("SYNs to 80 are answered by cookies")),
        "{:#?}",
        report.notices
    );
    let [customers, flood] = [&report.sources[0].counts, &report.sources[1].counts];
    assert!(flood.answered_packets > 100, "{flood:?}");
    assert!(
        flood.dropped_packets >= flood.answered_packets,
        "who was answered and did not come back did not get through"
    );
    assert!(customers.answered_packets * 1000 <= customers.packets, "customers come back: {customers:?}");
    assert!(customers.dropped_packets * 1000 <= customers.packets, "{customers:?}");
    let count = |path| {
        let mut packets = 0;
        for_each_packet(path, |_| packets += 1).unwrap();
        packets
    };
    let sum = |field: fn(&ftagent::replay::Counts) -> u64| field(customers) + field(flood);
    assert_eq!(count(&dropped), sum(|counts| counts.dropped_packets));
    assert_eq!(count(&passed) + count(&dropped), sum(|counts| counts.packets), "each packet is in one of both");
}
