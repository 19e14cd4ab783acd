//! Facts from fixtures of a host with two families, a VPN and operators logged in.

use std::fs;

use super::*;

const FIXTURES: &[(&str, &str)] = &[
    (
        "proc/net/fib_trie",
        "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 0.0.0.0\n        /0 universe UNICAST\n     |-- 192.0.2.10\n        \
         /32 host LOCAL\n     |-- 198.51.100.0\n        /25 host LOCAL\n        /24 link UNICAST\n     |-- 192.0.2.255\n        \
         /32 link BROADCAST\nLocal:\n     |-- 127.0.0.0\n        /8 host LOCAL\n     |-- 192.0.2.10\n        /32 host LOCAL\n",
    ),
    (
        "proc/net/if_inet6",
        "20010db8000000000000000000000010 02 40 00 80     eth0\n00000000000000000000000000000001 01 80 10 80       lo\n",
    ),
    (
        "proc/net/route",
        "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
         wlan0\t00000000\t0102A8C0\t0003\t0\t0\t600\t00000000\t0\t0\t0\n\
         eth0\t00000000\t010200C0\t0003\t0\t0\t100\t00000000\t0\t0\t0\n\
         eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n\
         *\t00000000\t00000000\t0200\t0\t0\t50\t00000000\t0\t0\t0\n",
    ),
    (
        "proc/net/ipv6_route",
        "00000000000000000000000000000000 00 00000000000000000000000000000000 00 fe800000000000000000000000000001 \
         00000400 00000002 00000000 00000003     eth1\n\
         20010db8000000000000000000000010 80 00000000000000000000000000000000 00 00000000000000000000000000000000 \
         00000000 00000003 00000000 80200001     eth0\n\
         20010db8000100000000000000000000 40 00000000000000000000000000000000 00 00000000000000000000000000000000 \
         00000000 00000003 00000000 80200001       lo\n\
         00000000000000000000000000000000 00 00000000000000000000000000000000 00 00000000000000000000000000000000 \
         ffffffff 00000001 00000000 00200200       lo\n",
    ),
    ("etc/resolv.conf", "# stub\nsearch example.net\nnameserver 127.0.0.53\noptions edns0\n"),
    ("run/systemd/resolve/resolv.conf", "nameserver 192.0.2.53\nnameserver fe80::53%eth0\n"),
    ("etc/ssh/sshd_config", "#Port 23\nPort 2222\nListenAddress 192.0.2.10:2200\nListenAddress ::\n"),
    ("etc/ssh/sshd_config.d/10-more.conf", "port=2022\n"),
    (
        // Listening: 22, 2222. Established: 203.0.113.5 → 2222, 203.0.113.9 → 443,
        // 203.0.113.7 → 2200 (nothing listens), a closing one to 22. BGP: 203.0.113.11 came, 203.0.113.12
        // was called, 203.0.113.13 is being called; 203.0.113.14 is half open, 203.0.113.15 closing.
        "proc/net/tcp",
        "  sl  local_address rem_address   st tx_queue rx_queue\n\
         0: 00000000:0016 00000000:0000 0A 00000000:00000000\n\
         1: 0A0200C0:08AE 00000000:0000 0A 00000000:00000000\n\
         2: 0A0200C0:08AE 057100CB:C001 01 00000000:00000000\n\
         3: 0A0200C0:01BB 097100CB:C001 01 00000000:00000000\n\
         4: 0A0200C0:0898 077100CB:C001 01 00000000:00000000\n\
         5: 0A0200C0:0016 087100CB:C001 06 00000000:00000000\n\
         6: 00000000:00B3 00000000:0000 0A 00000000:00000000\n\
         7: 0A0200C0:00B3 0B7100CB:C001 01 00000000:00000000\n\
         8: 0A0200C0:C001 0C7100CB:00B3 01 00000000:00000000\n\
         9: 0A0200C0:C002 0D7100CB:00B3 02 00000000:00000000\n\
         10: 0A0200C0:00B3 0E7100CB:C001 03 00000000:00000000\n\
         11: 0A0200C0:00B3 0F7100CB:C001 06 00000000:00000000\n\
         12: 0100007F:00B3 0100007F:C001 01 00000000:00000000\n",
    ),
    (
        // A mapped IPv4 peer and an IPv6 peer of port 22.
        "proc/net/tcp6",
        "  sl  local_address                         remote_address                        st\n\
         0: 0000000000000000FFFF00000A0200C0:0016 0000000000000000FFFF0000066433C6:D431 01\n\
         1: B80D0120000000000000000010000000:0016 B80D0120000000000000000099000000:D431 01\n",
    ),
    (
        // 53 and 123 on all addresses; 5353 on loopback; 40000 ephemeral; 4500 connected.
        "proc/net/udp",
        "   sl  local_address rem_address   st\n\
         1: 00000000:0035 00000000:0000 07\n\
         2: 0A0200C0:007B 00000000:0000 07\n\
         3: 3500007F:14E9 00000000:0000 07\n\
         4: 00000000:9C40 00000000:0000 07\n\
         5: 0A0200C0:1194 057100CB:0035 01\n",
    ),
    ("proc/net/udp6", "  sl\n 1: 00000000000000000000000000000000:6D38 00000000000000000000000000000000:0000 07\n"),
    ("proc/sys/net/ipv4/ip_local_port_range", "32768\t60999\n"),
];

fn fixture() -> (tempfile::TempDir, HostRoot) {
    let dir = tempfile::tempdir().unwrap();
    for (path, text) in FIXTURES {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let root = HostRoot::at(dir.path());
    (dir, root)
}

fn texts<T: ToString>(items: impl IntoIterator<Item = T>) -> Vec<String> {
    items.into_iter().map(|item| item.to_string()).collect()
}

// The fixtures are those of a little-endian machine.
#[cfg(target_endian = "little")]
#[test]
fn facts_of_a_host() {
    let (_dir, root) = fixture();
    let facts = HostFacts::read(&root);
    assert_eq!(facts.problems, Vec::<String>::new());
    assert_eq!(
        texts(&facts.addresses),
        ["127.0.0.0/8", "192.0.2.10/32", "198.51.100.0/25", "::1/128", "2001:db8::10/128", "2001:db8:1::/64"]
    );
    let routes: Vec<_> = facts.default_routes.iter().map(|route| (&*route.interface, route.metric)).collect();
    assert_eq!(routes, [("eth0", 100), ("wlan0", 600), ("eth1", 1024)]);
    assert_eq!(facts.default_routes[0].gateway, Some("192.0.2.1".parse().unwrap()));
    assert_eq!(facts.default_interfaces(), ["eth0", "eth1"]);
    assert_eq!(texts(&facts.resolvers), ["127.0.0.53", "192.0.2.53", "fe80::53"]);
    assert_eq!(facts.ssh_ports, BTreeSet::from([22, 2022, 2200, 2222]));
    assert_eq!(texts(&facts.operators), ["198.51.100.6", "203.0.113.5", "2001:db8::99"]);
    assert_eq!(texts(&facts.bgp_peers), ["203.0.113.11", "203.0.113.12", "203.0.113.13"]);
    assert_eq!(facts.udp_services, BTreeSet::from([53, 123, 27960]));
}

#[test]
fn an_empty_root_is_a_host_about_which_nothing_is_known() {
    let dir = tempfile::tempdir().unwrap();
    let facts = HostFacts::read(&HostRoot::at(dir.path()));
    assert_eq!(facts, HostFacts { ssh_ports: BTreeSet::from([22]), ..HostFacts::default() });
    // Loopback and widths are guarded all the same.
    let guard = Guard::from(&facts);
    assert!(guard.check("127.0.0.1/32".parse().unwrap(), None, false).is_err());
    assert!(guard.check("::/0".parse().unwrap(), None, false).is_err());
}

#[test]
fn an_unreadable_file_is_told() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("proc/net/route")).unwrap();
    let facts = HostFacts::read(&HostRoot::at(dir.path()));
    assert!(facts.problems[0].contains("proc/net/route"), "{:?}", facts.problems);
}

#[cfg(target_endian = "little")]
#[test]
fn what_must_stay_reachable_is_refused_with_reason_and_remedy() {
    let (_dir, root) = fixture();
    let guard = Guard::from(&HostFacts::read(&root));
    let caller = Some("203.0.113.77".parse().unwrap());
    let cases: &[(&str, &[&str])] = &[
        ("0.0.0.0/0", &["/8"]),
        ("::/0", &["/16"]),
        ("16.0.0.0/7", &["/8"]),
        ("127.0.0.1/32", &["loopback"]),
        ("::1/128", &["loopback"]),
        ("192.0.2.10/32", &["an address of this host"]),
        ("198.51.100.77/32", &["198.51.100.0/25", "an address of this host"]),
        ("2001:db8::/32", &["2001:db8::10", "narrower"]),
        ("203.0.113.77/32", &["the SSH session that asks"]),
        ("203.0.113.64/26", &["203.0.113.77", "narrower"]),
        ("203.0.113.5/32", &["operator's SSH session"]),
        ("2001:db8::99/128", &["operator's SSH session"]),
        ("192.0.2.1/32", &["gateway"]),
        ("192.0.2.53/32", &["name server"]),
        ("203.0.113.12/32", &["BGP session"]),
    ];
    for (net, expected) in cases {
        let net = net.parse().unwrap();
        let text = guard.check(net, caller, false).unwrap_err().to_string();
        assert!(text.contains("--force"), "{text}");
        expected.iter().for_each(|part| assert!(text.contains(part), "{text} lacks {part}"));
        assert_eq!(guard.check(net, caller, true), Ok(()));
    }
    for net in ["203.0.113.200/32", "8.0.0.0/8", "2a00::/16", "203.0.113.9/32", "203.0.113.14/32"] {
        assert_eq!(guard.check(net.parse().unwrap(), caller, false), Ok(()), "{net}");
    }
    let mapped = Some("::ffff:203.0.113.200".parse().unwrap());
    assert!(guard.check("203.0.113.200/32".parse().unwrap(), mapped, false).is_err());
}
