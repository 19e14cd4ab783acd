//! Every packet is in the class that VECTORS gives it, in the kernel and on the host.

use anyhow::Result;
use ftagent_common::{TrafficClass, reason::verdict};
use ftagent_tests::packet::{
    Extension, Ipv4, Ipv6, TAGGINGS, Tcp, Udp,
    datapath::{Datapath, class_on_host},
    ethertype,
    fixtures::{REFLECTORS, fixtures},
    flags, frame, proto, tagged,
};

/// Runs a frame in the kernel and on the host; both say `class`, pass it, and count every byte.
fn check(datapath: &mut Datapath, frame: &[u8], class: TrafficClass, services: &[u16]) -> Result<()> {
    let outcome = datapath.feed(frame)?;
    anyhow::ensure!(outcome.verdict == verdict::PASS, "verdict {}", outcome.verdict);
    anyhow::ensure!(outcome.bytes == frame.len() as u64, "{} bytes counted of {}", outcome.bytes, frame.len());
    anyhow::ensure!(outcome.class == class, "the kernel says {}", outcome.class.as_str());
    let host = class_on_host(frame, services).map(TrafficClass::as_str);
    anyhow::ensure!(host == Some(class.as_str()), "the host says {host:?}");
    Ok(())
}

/// Collects what failed, so that one run shows all of it.
#[derive(Default)]
struct Failures(Vec<String>);

impl Failures {
    fn note(&mut self, name: &str, result: Result<()>) {
        if let Err(error) = result {
            self.0.push(format!("{name}: {error:#}"));
        }
    }

    fn none(self) {
        assert!(self.0.is_empty(), "{} failures:\n{}", self.0.len(), self.0.join("\n"));
    }
}

#[test]
fn every_fixture_with_every_tagging() -> Result<()> {
    let mut datapath = Datapath::new()?;
    let mut failures = Failures::default();
    for fixture in fixtures() {
        for tags in TAGGINGS {
            let frame = tagged(&fixture.frame, tags);
            let name = format!("{} with tags {tags:x?}, expected {}", fixture.name, fixture.class.as_str());
            failures.note(&name, check(&mut datapath, &frame, fixture.class, &[]));
        }
    }
    failures.none();
    Ok(())
}

#[test]
fn the_table_covers_every_class() {
    let rows = fixtures();
    for class in TrafficClass::ALL {
        assert!(rows.iter().any(|row| row.class == class), "no fixture for {}", class.as_str());
    }
    let mut names: Vec<&str> = rows.iter().map(|row| row.name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), rows.len(), "names of fixtures are not unique");
}

/// Towards a port that this node serves a source port says nothing: clients use any.
#[test]
fn service_ports_take_reflectors_out() -> Result<()> {
    const SERVICE: u16 = 40001;
    let services = [SERVICE, 64, 65535];
    let mut datapath = Datapath::new()?;
    datapath.run.set_service_ports(&services)?;
    let mut failures = Failures::default();
    let ok = b"HTTP/1.1 200 OK\r\nST: upnp:rootdevice\r\n";
    let mut rows: Vec<(String, Udp, TrafficClass)> = vec![
        ("SSDP answer".into(), Udp::new(32817, SERVICE, ok), TrafficClass::UdpSmall),
        ("SSDP answer from 1900".into(), Udp::new(1900, SERVICE, ok), TrafficClass::UdpSmall),
        ("Source query".into(), Udp::new(40000, SERVICE, b"\xff\xff\xff\xffTSource"), TrafficClass::UdpGameQuery),
        // A player behind a NAT may get the very port that servers use.
        (
            "Source query from 27015".into(),
            Udp::new(27015, SERVICE, b"\xff\xff\xff\xffTSo"),
            TrafficClass::UdpGameQuery,
        ),
    ];
    for (port, class) in REFLECTORS {
        for (service, class) in [
            (SERVICE, TrafficClass::UdpMedium),
            (64, TrafficClass::UdpMedium),
            (65535, TrafficClass::UdpMedium),
            (SERVICE - 1, class),
            (SERVICE + 1, class),
            (63, class),
            (0, class),
        ] {
            let udp = Udp::new(port, service, &[0; 400]);
            rows.push((format!("from port {port} to {service}"), udp, class));
        }
    }
    for (name, udp, class) in rows {
        let inner = udp.build();
        for frame in [Ipv4::new().frame(&inner), Ipv6::new().frame(&inner)] {
            failures.note(&name, check(&mut datapath, &frame, class, &services));
        }
    }
    failures.none();

    // And back again: the map is replaced as a whole.
    datapath.run.set_service_ports(&[])?;
    let frame = Ipv4::new().frame(&Udp::new(1900, SERVICE, ok).build());
    check(&mut datapath, &frame, TrafficClass::UdpSrcSsdp, &[])
}

/// Tags that are cut off, more tags than the parser follows, and priority tags.
#[test]
fn tags_at_their_edges() -> Result<()> {
    use ethertype::{QINQ, VLAN};
    let mut datapath = Datapath::new()?;
    let mut failures = Failures::default();
    let plain = Ipv4::new().frame(&Tcp::to(80, flags::SYN).build());
    for first in [VLAN, QINQ] {
        for second in [VLAN, QINQ] {
            let two = tagged(&plain, &[first, second]);
            for bytes in [14, 15, 17, 18, 19, 21] {
                let name = format!("tags {first:x} {second:x} cut off after {bytes} bytes");
                failures.note(&name, check(&mut datapath, &two[..bytes], TrafficClass::Malformed, &[]));
            }
            let three = tagged(&plain, &[first, second, VLAN]);
            let name = format!("three tags, {first:x} {second:x} 8100");
            failures.note(&name, check(&mut datapath, &three, TrafficClass::OtherL2, &[]));
        }
        let mut priority = tagged(&plain, &[first]);
        priority.splice(14..16, [0xe0, 0]);
        failures.note("priority tag", check(&mut datapath, &priority, TrafficClass::TcpSyn, &[]));
    }
    failures.none();
    Ok(())
}

/// Frames of several buffers count with their whole length, whatever is in them. The first
/// buffer of a test run holds about 3500 bytes.
#[test]
fn large_frames_count_in_full() -> Result<()> {
    let mut datapath = Datapath::new()?;
    let mut failures = Failures::default();
    for bytes in [1514, 3000, 3400, 3600, 4096, 9000, 9014, 16_000, 60_000, 65_000] {
        let data = vec![0; bytes - 14 - 40 - 20];
        let tcp = Tcp::data(80, &data).build();
        let udp = Udp::new(40000, 40001, &data).build();
        let mut padded = Ipv4::new().frame(&Tcp::to(80, flags::SYN).build());
        padded.resize(bytes, 0);
        let mut padded6 = Ipv6::new().frame(&Tcp::to(80, flags::SYN).build());
        padded6.resize(bytes, 0);
        let options = Ipv6::with([Extension::options(proto::DESTINATION, 16)]);
        let martian = Ipv4::from([127, 0, 0, 1]);
        let version = Ipv6 { version: 5, ..Ipv6::new() };
        let past = Ipv4 { total_length: Some(u16::MAX), ..Ipv4::new() };
        let rows = [
            ("TCP, IPv4", Ipv4::new().frame(&tcp), TrafficClass::TcpData),
            ("TCP, IPv6", Ipv6::new().frame(&tcp), TrafficClass::TcpData),
            ("UDP, IPv4", Ipv4::new().frame(&udp), TrafficClass::UdpLarge),
            ("UDP, IPv6", Ipv6::new().frame(&udp), TrafficClass::UdpLarge),
            ("options, IPv6", options.frame(&udp), TrafficClass::UdpLarge),
            ("fragment, IPv4", Ipv4::fragment(0, true).frame(&udp), TrafficClass::FragFirst),
            ("padding, IPv4", padded, TrafficClass::TcpSyn),
            ("padding, IPv6", padded6, TrafficClass::TcpSyn),
            ("ARP", frame(ethertype::ARP, &data), TrafficClass::Arp),
            ("other", frame(ethertype::LLDP, &data), TrafficClass::OtherL2),
            ("martian", martian.frame(&tcp), TrafficClass::Malformed),
            ("version 5", version.frame(&tcp), TrafficClass::Malformed),
            ("total length past the end", past.frame(&tcp), TrafficClass::Malformed),
        ];
        for (name, frame, class) in rows {
            for tags in TAGGINGS {
                let frame = tagged(&frame, tags);
                let name = format!("{name}, {} bytes, tags {tags:x?}", frame.len());
                failures.note(&name, check(&mut datapath, &frame, class, &[]));
            }
        }
    }
    failures.none();
    Ok(())
}
