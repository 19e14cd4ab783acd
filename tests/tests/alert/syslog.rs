//! Syslog over its three ways, read as a collector reads it.

use std::{
    io::{BufRead as _, BufReader, Read as _},
    net::{TcpListener, UdpSocket},
    os::unix::net::UnixDatagram,
    time::Duration,
};

use nix::sys::{
    socket::{setsockopt, sockopt},
    time::{TimeVal, TimeValLike as _},
};

use super::{PATIENCE, Place, hand, incident, over, sink, wait_done};

fn check(line: &str, kind: &str) {
    let head = line.strip_prefix('<').and_then(|rest| rest.split_once(">1 ")).unwrap_or_else(|| panic!("{line}"));
    let priority: u16 = head.0.parse().unwrap();
    assert_eq!(priority / 8, 3, "daemon");
    let words: Vec<&str> = head.1.splitn(6, ' ').collect();
    assert!(words[0].ends_with('Z') && words[1] == "edge1" && words[2] == "ftagent" && words[4] == kind, "{line}");
    assert!(words[5].starts_with("[ftagent@32473 id=\""), "{line}");
}

#[test]
fn datagrams() {
    let place = Place::new();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let address = format!("address = \"udp://{}\"", socket.local_addr().unwrap());
    let post = place.post(&sink("syslog", &address));
    let mut room = [0; 4096];
    hand(&post, incident("i"));
    let length = socket.recv(&mut room).unwrap();
    check(std::str::from_utf8(&room[..length]).unwrap(), "opened");
    let socket = UnixDatagram::bind(place.state().join("log.sock")).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let address = format!("address = \"unix://{}\"", place.state().join("log.sock").display());
    post.reload(&place.config(&sink("syslog", &address)).alerts);
    hand(&post, over("i"));
    let length = socket.recv(&mut room).unwrap();
    check(std::str::from_utf8(&room[..length]).unwrap(), "closed");
}

#[test]
fn a_collector_that_restarts_misses_nothing() {
    let place = Place::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    // A limit on receiving is one on accepting, too: socket(7).
    let limit = TimeVal::seconds(PATIENCE.as_secs().cast_signed());
    setsockopt(&listener, sockopt::ReceiveTimeout, &limit).unwrap();
    let address = format!("address = \"tcp://{}\"", listener.local_addr().unwrap());
    let post = place.post(&sink("syslog", &address));
    hand(&post, incident("i"));
    let read = |kind: &str| {
        let (stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut reader = BufReader::new(stream);
        let mut length = Vec::new();
        reader.read_until(b' ', &mut length).unwrap();
        let length: usize = std::str::from_utf8(&length).unwrap().trim().parse().unwrap();
        let mut line = vec![0; length];
        reader.read_exact(&mut line).unwrap();
        check(std::str::from_utf8(&line).unwrap(), kind);
    };
    read("opened");
    wait_done(&post, "delivered", 1);
    // It closed its side; what comes next is sent over a line of its own.
    std::thread::sleep(Duration::from_millis(100));
    hand(&post, over("i"));
    read("closed");
    wait_done(&post, "delivered", 2);
}

#[test]
fn where_nobody_listens_it_waits() {
    let place = Place::new();
    let path = place.state().join("later.sock");
    let post = place.post(&sink("syslog", &format!("address = \"unix://{}\"\nformat = \"cef\"", path.display())));
    hand(&post, incident("i"));
    let trouble = ftagent_tests::daemon::wait_for("trouble", PATIENCE, || post.status().sinks[0].trouble.clone());
    assert!(trouble.unwrap().contains("later.sock"));
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut room = [0; 4096];
    let length = socket.recv(&mut room).unwrap();
    let text = String::from_utf8_lossy(&room[..length]).into_owned();
    assert!(text.contains(" opened - CEF:0|ftagent|ftagent|") && text.contains("|8|rt="), "{text}");
}
