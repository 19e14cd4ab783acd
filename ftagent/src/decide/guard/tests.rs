use super::*;

/// A packet of a conversation, IPv4.
fn of(transport: Transport, port: u16, answer: Answer) -> Lookup {
    Lookup { transport, v6: false, from: 53, port, is_syn: false, conversing: true, closed: false, answer }
}

/// A packet that belongs to nothing.
fn stray(transport: Transport, port: u16, answer: Answer) -> Lookup {
    Lookup { conversing: false, ..of(transport, port, answer) }
}

fn note(validation: &mut Validation, times: u32, lookup: Lookup) {
    (0..times).for_each(|_| validation.note(&lookup));
}

fn after(transport: Transport, port: u16, sockets: u32, nothing: u32) -> Validation {
    let mut validation = Validation::default();
    validation.note(&Lookup { is_syn: true, ..stray(Transport::Tcp, port, Answer::Listener) });
    note(&mut validation, sockets, of(transport, port, Answer::Socket));
    note(&mut validation, nothing, of(transport, port, Answer::Nothing));
    validation
}

#[test]
fn only_validated_ports_are_armed() {
    let cases = [
        ("served by this host", 5000, 0, true),
        ("too few packets", 999, 0, false),
        ("just enough", 1000, 0, true),
        ("a thousandth without a socket", 9990, 10, true),
        ("translated to a container", 0, 5000, false),
        ("half of its addresses are translated", 5000, 5000, false),
        ("never seen", 0, 0, false),
    ];
    for (name, sockets, nothing, armed) in cases {
        let tcp = after(Transport::Tcp, 443, sockets, nothing);
        let plan = tcp.plan(&[Vector::SynFlood]);
        assert_eq!(plan.state.contains(&Ports::One(443)), armed, "{name}");
        assert_eq!(plan.cookies.contains(&443), armed, "{name}");
        assert!(plan.closed.is_empty(), "{name}: TCP says nothing of UDP");
        let udp = after(Transport::Udp, 27_015, sockets, nothing).plan(&[Vector::UdpFlood]);
        assert_eq!(udp.closed.contains(&Ports::One(27_015)), armed, "{name}");
    }
}

#[test]
fn ephemeral_ports_count_together() {
    let mut validation = Validation::default();
    for port in 40_000..42_000 {
        validation.note(&of(Transport::Udp, port, Answer::Socket));
    }
    let plan = validation.plan(&[Vector::DnsAmplification]);
    assert_eq!(plan.closed, BTreeSet::from([Ports::Ephemeral]));
    for (port, armed) in [(32_767, false), (32_768, true), (60_999, true), (61_000, false)] {
        assert_eq!(plan.has(Transport::Udp, Ports::of(port)), armed, "{port}: never validated, never armed");
    }
}

#[test]
fn strays_cannot_keep_the_guard_off() {
    let mut validation = after(Transport::Tcp, 443, 2000, 0);
    for _ in 0..1_000_000 {
        validation.note(&stray(Transport::Tcp, 443, Answer::Nothing));
        validation.note(&stray(Transport::Tcp, 443, Answer::Listener));
    }
    assert!(validation.plan(&[Vector::AckFlood]).state.contains(&Ports::One(443)));
}

#[test]
fn each_vector_arms_what_helps_against_it() {
    let mut validation = after(Transport::Tcp, 443, 2000, 0);
    for _ in 0..2000 {
        validation.note(&of(Transport::Udp, 53, Answer::Socket));
    }
    let cases = [
        (Vector::SynFlood, true, true, false),
        (Vector::AckFlood, false, true, false),
        (Vector::RstFlood, false, true, false),
        (Vector::NtpAmplification, false, false, true),
        (Vector::UdpFlood, false, false, true),
        (Vector::HttpFlood, false, false, false),
        (Vector::IcmpFlood, false, false, false),
    ];
    for (vector, cookies, state, closed) in cases {
        let plan = validation.plan(&[vector]);
        let armed = (!plan.cookies.is_empty(), !plan.state.is_empty(), !plan.closed.is_empty());
        assert_eq!(armed, (cookies, state, closed), "{}", vector.as_str());
    }
    assert!(validation.plan(&[]).is_empty());
}

#[test]
fn a_port_that_moved_into_a_container_is_noticed_and_a_quiet_one_is_not_forgotten() {
    let mut validation = after(Transport::Tcp, 443, 10_000, 0);
    validation.age(48.0 * 3600.0);
    assert!(validation.plan(&[Vector::AckFlood]).state.contains(&Ports::One(443)), "silence is no reason");
    for _ in 0..20 {
        validation.note(&of(Transport::Tcp, 443, Answer::Nothing));
    }
    assert!(!validation.plan(&[Vector::AckFlood]).state.contains(&Ports::One(443)));
    let (.., found) = validation.iter().next().unwrap();
    assert!(found.why_not().unwrap().contains("no socket"));
}

#[test]
fn a_plan_is_made_when_vectors_change_and_once_a_second() {
    let mut sentry = Sentry { validation: after(Transport::Tcp, 443, 999, 0), ..Sentry::default() };
    let at = |ms: u64| Now { mono_ns: ms * 1_000_000, unix_ms: ms as i64 };
    sentry.on_tick(at(10_000), &[Vector::SynFlood]);
    assert!(sentry.plan().0.is_empty() && sentry.cause().is_none());
    sentry.validation.note(&of(Transport::Tcp, 443, Answer::Socket));
    sentry.on_tick(at(10_100), &[Vector::SynFlood]);
    assert!(sentry.plan().0.is_empty(), "not yet");
    sentry.on_tick(at(11_000), &[Vector::SynFlood]);
    assert_eq!(sentry.plan().0.cookies, BTreeSet::from([443]));
    sentry.on_tick(at(11_100), &[Vector::AckFlood]);
    assert!(sentry.plan().0.cookies.is_empty() && !sentry.plan().0.is_empty(), "at once");
    assert_eq!(sentry.cause(), Some((at(11_000), &[Vector::AckFlood][..])));
    sentry.on_tick(at(11_200), &[]);
    assert!(sentry.plan().0.is_empty() && sentry.cause().is_none());
}

#[test]
fn what_was_validated_outlives_a_restart_and_counts_less() {
    let mut validation = after(Transport::Tcp, 443, 1_000_000, 0);
    for _ in 0..2000 {
        validation.note(&of(Transport::Udp, 40_000, Answer::Socket));
    }
    let text = serde_json::to_string(&validation).unwrap();
    let read: Validation = serde_json::from_str(&text).unwrap();
    assert_eq!(read, validation);
    let mut sentry = Sentry::default();
    sentry.restore(read);
    let plan = sentry.validation().plan(&[Vector::SynFlood, Vector::UdpFlood]);
    assert!(plan.cookies.contains(&443) && plan.has(Transport::Udp, Ports::Ephemeral));
    for _ in 0..5 {
        sentry.validation.note(&of(Transport::Tcp, 443, Answer::Nothing));
    }
    assert!(sentry.validation().plan(&[Vector::SynFlood]).is_empty(), "it moved meanwhile");
    for (from, to) in [("\"443\"", "\"70000\""), ("1000000.0", "null"), ("\"found\":2000.0", "\"found\":2001.0")] {
        let damaged = text.replacen(from, to, 1);
        assert_ne!(damaged, text);
        assert!(serde_json::from_str::<Validation>(&damaged).is_err(), "{damaged}");
    }
}

#[test]
fn a_port_that_is_translated_past_a_listener_is_not_armed() {
    let listening = of(Transport::Tcp, 443, Answer::Listener);
    // Port 443 of a container, by translation, and a proxy that listens for whom is not translated.
    let cases = [
        ("it moved into a container", listening, false),
        ("for IPv6 the proxy has the sockets", Lookup { v6: true, ..of(Transport::Tcp, 443, Answer::Socket) }, true),
        ("segments of connections that were closed", Lookup { closed: true, ..listening }, true),
        ("SYNs", Lookup { is_syn: true, ..listening }, true),
        ("strays", stray(Transport::Tcp, 443, Answer::Listener), true),
    ];
    for (name, lookup, armed) in cases {
        let mut validation = after(Transport::Tcp, 443, 4000, 0);
        note(&mut validation, 200, lookup);
        assert_eq!(validation.plan(&[Vector::SynFlood]).cookies.contains(&443), armed, "{name}");
    }
    // One family's sockets say nothing of the other's.
    let mut validation = after(Transport::Tcp, 443, 0, 0);
    note(&mut validation, 100_000, Lookup { v6: true, ..of(Transport::Tcp, 443, Answer::Socket) });
    assert!(!validation.plan(&[Vector::SynFlood]).is_empty());
    note(&mut validation, 30, listening);
    assert!(validation.plan(&[Vector::SynFlood]).is_empty());
    let (.., found) = validation.iter().next().unwrap();
    assert!(found.why_not().unwrap().contains("IPv4"), "{:?}", found.why_not());
}

#[test]
fn a_few_that_are_forged_with_care_keep_no_guard_off() {
    let mut tcp = after(Transport::Tcp, 443, 10_000, 0);
    note(&mut tcp, 150, of(Transport::Tcp, 443, Answer::Listener));
    assert!(!tcp.plan(&[Vector::SynFlood]).is_empty());
    let mut udp = after(Transport::Udp, 40_000, 10_000, 0);
    note(&mut udp, 150, stray(Transport::Udp, 40_000, Answer::Nothing));
    assert!(!udp.plan(&[Vector::UdpFlood]).is_empty());
}

#[test]
fn what_a_cookie_answered_finds_the_listener_and_is_no_miss() {
    use crate::decide::{
        flows::Flows,
        frames::{Dice, connection, decoded, member},
    };
    let (mut sentry, mut flows) =
        (Sentry { validation: after(Transport::Tcp, 80, 2000, 0), ..Sentry::default() }, Flows::new(3));
    for client in 0..300 {
        let request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec();
        let packets = connection(&mut Dice(client), member(client), 80, &[request], 300);
        for (number, (inbound, frame)) in packets.iter().enumerate() {
            let mut packet = decoded(client * 1_000_000 + number as u64, frame);
            let (mark, _) = flows.note(&packet, !inbound, false);
            let opens = *inbound && packet.seq == flows.get(&mark).unwrap().halves[0].isn.wrapping_add(1);
            packet.socket = if number == 0 || opens { socket::LISTENER } else { socket::CONNECTED };
            if *inbound {
                sentry.note(&packet, flows.get(&mark));
            }
        }
    }
    assert!(sentry.validation().plan(&[Vector::SynFlood]).cookies.contains(&80), "{:?}", sentry.validation());
}

#[test]
fn what_is_translated_to_containers_keeps_the_guard_off_for_udp() {
    // Answers to what containers asked are single packets; services have conversations.
    let cases = [
        ("a container's questions", stray(Transport::Udp, 40_000, Answer::Nothing), Ports::Ephemeral, false),
        ("a service that moved", of(Transport::Udp, 27_015, Answer::Nothing), Ports::One(27_015), false),
        (
            "strays from anywhere",
            Lookup { from: 50_000, ..stray(Transport::Udp, 40_000, Answer::Nothing) },
            Ports::Ephemeral,
            true,
        ),
        ("strays to a service", stray(Transport::Udp, 27_015, Answer::Nothing), Ports::One(27_015), true),
    ];
    for (name, lookup, ports, armed) in cases {
        let mut validation = after(Transport::Udp, lookup.port, 2000, 0);
        note(&mut validation, 200, lookup);
        assert_eq!(validation.plan(&[Vector::UdpFlood]).has(Transport::Udp, ports), armed, "{name}");
    }
}

#[test]
fn a_service_that_is_seen_late_finds_a_place_among_a_proxys_own_ports() {
    let mut validation = after(Transport::Tcp, 22, 2000, 0);
    for port in 1024..32_000 {
        note(&mut validation, 1 + u32::from(port % 3), of(Transport::Tcp, port, Answer::Socket));
    }
    assert!(validation.iter().count() <= PORTS);
    note(&mut validation, 2000, of(Transport::Tcp, 443, Answer::Socket));
    let plan = validation.plan(&[Vector::AckFlood]);
    assert_eq!(plan.state, BTreeSet::from([Ports::One(22), Ports::One(443)]));
}

#[test]
fn what_an_earlier_version_wrote_counts_as_ipv4() {
    let text = r#"{"seen":[["tcp","443",{"asked":4000.0,"found":4000.0}]],"listeners":[443]}"#;
    let mut read: Validation = serde_json::from_str(text).unwrap();
    assert!(read.plan(&[Vector::SynFlood]).cookies.contains(&443));
    note(&mut read, 30, Lookup { v6: true, ..of(Transport::Tcp, 443, Answer::Listener) });
    assert!(read.plan(&[Vector::SynFlood]).is_empty());
}
