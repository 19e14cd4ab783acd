//! Packets of every kind that the drawn rules speak of.

use std::net::Ipv4Addr;

use ftagent_tests::packet::{Extension, Icmp, Ipv4, Ipv6, Tcp, Transport, Udp};

fn transports() -> Vec<Transport> {
    let payload = [0x17, 0, 3, 0x2a, 0, 0, 0, 0, 0x42, 7, 7, 7];
    let other = [0x17, 0, 4, 0x2a, 0xa5, 0x0f, 0, 0];
    let mut all = Vec::new();
    for (src, dst) in [(123, 40000), (53, 53), (40000, 80), (19, 443), (11211, 1), (65535, 0)] {
        all.push(Udp::new(src, dst, &payload).build());
        all.push(Udp::new(src, dst, &other).build());
        all.push(Udp { ..Udp::new(src, dst, &[0x17; 480]) }.build());
        all.push(Udp::new(src, dst, &[]).build());
        for flags in [0x02, 0x12, 0x10, 0x04, 0x00, 0x52, 0xd0] {
            all.push(Tcp { src, ..Tcp::to(dst, flags) }.build());
        }
        all.push(Tcp { src, ..Tcp::data(dst, &payload) }.build());
        all.push(Tcp { src, options: vec![1; 8], ..Tcp::data(dst, &other) }.build());
    }
    all.push(Transport::raw(47, &payload));
    all.push(Transport::raw(50, &[0x17; 40]));
    all.push(Transport::raw(253, &[]));
    all
}

/// A packet that is sent: the frame, and whether it is the first fragment of a datagram.
pub struct Sent {
    /// From the Ethernet header on.
    pub frame: Vec<u8>,
    /// It has a transport header and a flag that more follows.
    pub first: bool,
}

/// Packets of every kind that the rules speak of.
pub fn packets() -> Vec<Sent> {
    let mut all = Vec::new();
    let whole = |frame| Sent { frame, first: false };
    let icmps: Vec<Icmp> = [(8, 0), (0, 0), (3, 3), (3, 13), (11, 0), (128, 0), (255, 2)]
        .map(|(kind, code)| Icmp { code, ..Icmp::new(kind) })
        .to_vec();
    let (fours, sixes): (Vec<Transport>, Vec<Transport>) =
        (icmps.iter().map(Icmp::v4).collect(), icmps.iter().map(Icmp::v6).collect());
    for inner in transports().iter().chain(&fours) {
        let options = Ipv4 { options: vec![1; 8], ..Ipv4::new() };
        let elsewhere = Ipv4 { dst: Ipv4Addr::new(198, 51, 100, 9), ..Ipv4::from([198, 19, 0, 1]) };
        for packet in [Ipv4::new(), options, elsewhere, Ipv4 { fragment: 0x4000, ..Ipv4::new() }] {
            all.push(whole(packet.frame(inner)));
        }
        all.push(Sent { frame: Ipv4::fragment(0, true).frame(inner), first: true });
        all.push(whole(Ipv4::fragment(800, true).frame(inner)));
        all.push(whole(Ipv4::fragment(800, false).frame(inner)));
        all.push(whole(marked(Ipv4::new().frame(inner), 46, 3)));
        all.push(whole(marked(Ipv4::new().frame(inner), 10, 64)));
    }
    for inner in transports().iter().chain(&sixes) {
        let (options, fragment) = (Extension::options(60, 16), Extension::fragment);
        all.push(whole(Ipv6::new().frame(inner)));
        all.push(whole(Ipv6::with([options.clone()]).frame(inner)));
        all.push(Sent { frame: Ipv6::with([fragment(0, true)]).frame(inner), first: true });
        all.push(whole(Ipv6::with([fragment(800, true)]).frame(inner)));
        all.push(whole(Ipv6::with([options, fragment(800, false)]).frame(inner)));
        all.push(whole(Ipv6::with([fragment(0, false)]).frame(inner)));
        all.push(whole(marked(Ipv6::new().frame(inner), 46, 3)));
        all.push(whole(Ipv6::from([0x2001, 0xdb9, 0, 0, 0, 0, 0, 1]).frame(inner)));
    }
    all
}

/// Sets DSCP and TTL.
fn marked(mut frame: Vec<u8>, dscp: u8, ttl: u8) -> Vec<u8> {
    if frame[12..14] == [0x86, 0xdd] {
        (frame[14], frame[15]) = (0x60 | dscp >> 2, dscp << 6);
        frame[21] = ttl;
        return frame;
    }
    (frame[15], frame[22]) = (dscp << 2, ttl);
    frame[24..26].fill(0);
    let header = usize::from(frame[14] & 15) * 4;
    let words = frame[14..14 + header].chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]));
    let sum: u32 = words.sum();
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    frame
}
