use super::*;
use crate::decide::frames::{Segment, ip_at, tcp_between, udp_bytes};

const SYN: u8 = tcp::SYN;
const ACK: u8 = tcp::ACK;
const FIN: u8 = tcp::FIN | tcp::ACK;
const RST: u8 = tcp::RST;
const SYN_ACK: u8 = tcp::SYN | tcp::ACK;

const SERVER: &str = "192.0.2.1:443";
const CLIENT: &str = "198.51.100.7:50000";

/// A packet between two ends, `flags` of TCP; `None` is UDP.
fn packet(second: u64, from: &str, to: &str, flags: Option<u8>) -> Packet {
    let (from, to): (SocketAddr, SocketAddr) = (from.parse().unwrap(), to.parse().unwrap());
    let (IpAddr::V4(src), IpAddr::V4(dst)) = (from.ip(), to.ip()) else { panic!("IPv4 only") };
    let ports = (from.port(), to.port());
    let frame = match flags {
        None => ip_at(src, dst, 17, [0; 4], &udp_bytes(ports, b"hello")),
        Some(flags) => tcp_between(src, dst, &Segment { ports, flags, seq: 1, ack: 0, payload: &[] }),
    };
    Packet::decode(second * SECOND, &frame, frame.len(), None, false)
}

const SYN_AT: Answer = Answer { number: 3, time_ns: SECOND, source: 1, bytes: 60 };

/// What happens: a packet that comes in and passes, one that is answered, one that is sent, or a look.
enum Step {
    In(u8),
    Cookie,
    Out(u8),
    Finds(u8, u8),
}

#[test]
fn what_the_protected_side_sends_shows_its_sockets() {
    use Step::{Cookie, Finds, In, Out};
    let (none, listener, connected) = (socket::NONE, socket::LISTENER, socket::CONNECTED);
    let half_open = socket::HALF_OPEN;
    let cases: [(&str, &[Step]); 8] = [
        ("nobody was seen to answer", &[Finds(SYN, none), In(SYN), Finds(ACK, none)]),
        ("a handshake", &[In(SYN), Out(SYN_ACK), Finds(ACK, half_open), In(ACK), Out(ACK), Finds(ACK, connected)]),
        ("a listener and a stranger", &[Out(SYN_ACK), Out(RST), Finds(SYN, listener), Finds(ACK, listener)]),
        ("older than the capture", &[Out(ACK), Finds(ACK, connected), Finds(SYN, connected)]),
        ("it connects itself", &[Out(SYN), Finds(SYN_ACK, connected)]),
        (
            "an end, and a new beginning",
            &[
                Out(SYN_ACK),
                In(ACK),
                In(FIN),
                Out(FIN),
                Finds(ACK, connected),
                Finds(SYN, listener),
                In(SYN),
                Out(SYN_ACK),
                In(ACK),
                Finds(ACK, connected),
            ],
        ),
        (
            "a cookie that comes back",
            &[Out(SYN_ACK), Out(RST), Cookie, Out(SYN_ACK), Finds(SYN, listener), Finds(ACK, connected)],
        ),
        ("a port that refuses", &[In(SYN), Out(RST), Finds(SYN, none)]),
    ];
    for (name, steps) in cases {
        let mut sockets = Sockets::new([IpAddr::from([192, 0, 2, 1])]);
        for (number, step) in steps.iter().enumerate() {
            let inbound = |flags| packet(1, CLIENT, SERVER, Some(flags));
            match step {
                In(flags) => assert_eq!(sockets.passed(&inbound(*flags)), None, "{name}, step {number}"),
                Cookie => sockets.answered(&inbound(SYN), SYN_AT),
                Out(flags) => sockets.sent(&packet(1, SERVER, CLIENT, Some(*flags))),
                Finds(flags, found) => assert_eq!(sockets.look(&inbound(*flags)), *found, "{name}, step {number}"),
            }
        }
    }
}

#[test]
fn a_cookie_comes_back_once_and_within_two_minutes() {
    let mut sockets = Sockets::new([IpAddr::from([192, 0, 2, 1])]);
    let client = |second, flags| packet(second, CLIENT, SERVER, Some(flags));
    sockets.answered(&client(100, SYN), SYN_AT);
    assert_eq!(sockets.passed(&client(101, RST)), None);
    assert_eq!(sockets.passed(&client(101, ACK)), Some(SYN_AT));
    assert_eq!(sockets.passed(&client(101, ACK)), None);
    assert_eq!(sockets.look(&client(500, ACK)), socket::CONNECTED);
    let late = |second| packet(second, "198.51.100.8:50000", SERVER, Some(ACK));
    sockets.answered(&packet(200, "198.51.100.8:50000", SERVER, Some(SYN)), SYN_AT);
    assert_eq!(sockets.look(&late(201)), socket::CONNECTED);
    // Whatever comes meanwhile, and be it nothing of the guard's.
    assert_eq!(sockets.passed(&packet(400, "198.51.100.9:50000", SERVER, Some(SYN))), None);
    assert_eq!(sockets.look(&late(401)), socket::NONE);
}

#[test]
fn what_was_asked_for_has_a_socket_though_nobody_saw_the_question() {
    let mut sockets = Sockets::new([IpAddr::from([192, 0, 2, 1])]);
    let answer = packet(1, "203.0.113.9:53", "192.0.2.1:40000", None);
    let page = packet(1, CLIENT, SERVER, Some(ACK));
    let call = packet(1, CLIENT, "192.0.2.1:80", Some(SYN));
    for (packet, before, after) in [
        (&answer, socket::NONE, socket::UNCONNECTED),
        (&page, socket::NONE, socket::CONNECTED),
        (&call, socket::NONE, socket::LISTENER),
    ] {
        assert_eq!(sockets.look(packet), before);
        sockets.assume(packet);
        assert_eq!(sockets.look(packet), after);
    }
}

#[test]
fn udp_ports_are_open_while_their_owner_is_there() {
    let mut sockets = Sockets::new([IpAddr::from([192, 0, 2, 1])]);
    let to = |second, port: u16| packet(second, "203.0.113.9:53", &format!("192.0.2.1:{port}"), None);
    assert_eq!(sockets.look(&to(1, 27_015)), socket::NONE);
    for port in [27_015, 40_000] {
        sockets.sent(&packet(1, &format!("192.0.2.1:{port}"), "203.0.113.9:53", None));
    }
    for (second, port, found) in [
        (2, 27_015, socket::UNCONNECTED),
        (900, 27_015, socket::UNCONNECTED),
        (2, 40_000, socket::UNCONNECTED),
        (900, 40_000, socket::NONE),
        (2, 40_001, socket::NONE),
    ] {
        assert_eq!(sockets.look(&to(second, port)), found, "{port} after {second} s");
    }
    // Whose address is not its own may be translated: nothing is known of it.
    assert_eq!(sockets.look(&packet(2, "203.0.113.9:53", "192.0.2.2:9", None)), socket::UNKNOWN);
}

#[test]
fn a_listener_has_room_until_its_queue_is_full_and_again_when_requests_are_given_up() {
    let mut sockets = Sockets::new([IpAddr::from([192, 0, 2, 1])]);
    let syn = |second, number: usize| {
        packet(second, &format!("198.51.{}.{}:50000", number / 200, number % 200 + 1), SERVER, Some(SYN))
    };
    assert!(!sockets.has_room(&syn(1, 0)), "nobody listens");
    sockets.sent(&packet(1, SERVER, CLIENT, Some(SYN_ACK)));
    for number in 0..BACKLOG {
        assert!(sockets.has_room(&syn(1, number)), "{number}");
        sockets.passed(&syn(1, number));
        // It is sent again: the same request.
        sockets.passed(&syn(1, number));
    }
    assert!(!sockets.has_room(&syn(1, BACKLOG)));
    // A handshake that ends makes room for one.
    sockets.passed(&packet(1, "198.51.0.1:50000", SERVER, Some(ACK)));
    assert!(sockets.has_room(&syn(1, BACKLOG)));
    sockets.passed(&syn(1, BACKLOG));
    // SYN-ACKs after 1, 2 and 4 s: a crowded queue waits for no more of them.
    for (second, room) in [(2, false), (5, false), (7, false), (8, true)] {
        assert_eq!(sockets.has_room(&syn(second, 0)), room, "after {second} s");
    }
}

#[test]
fn requests_of_a_queue_with_room_are_waited_for_a_minute() {
    let mut queue = Queue::default();
    let ends = Ends { own: SERVER.parse().unwrap(), peer: CLIENT.parse().unwrap() };
    queue.ask(ends, 0);
    for (second, waits) in [(1, true), (62, true), (63, false)] {
        queue.is_full(second * SECOND);
        assert_eq!(queue.holds(&ends), waits, "after {second} s");
    }
}

#[test]
fn who_goes_on_after_a_syn_was_answered_though_the_capture_does_not_show_it() {
    let mut sockets = Sockets::new([IpAddr::from([192, 0, 2, 1])]);
    let client = |flags| packet(1, CLIENT, SERVER, Some(flags));
    sockets.knock(&client(ACK));
    assert_eq!(sockets.look(&client(ACK)), socket::NONE, "an ACK alone is nobody's");
    sockets.knock(&client(SYN));
    assert_eq!(sockets.look(&client(SYN)), socket::NONE, "whoever floods sends SYNs, too");
    sockets.knock(&client(ACK));
    assert_eq!(sockets.look(&client(ACK)), socket::CONNECTED);
}
