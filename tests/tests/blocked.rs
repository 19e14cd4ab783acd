//! A blocked source stays blocked whatever its packets look like, for as long as its entry says
//! and not a jiffy longer; and nobody else is.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context as _, Result, ensure};
use ftagent::bpf::{
    lists::{FeedSet, Which},
    testrun::{JIFFY_NS, jiffies},
};
use ftagent_common::{DropReason, reason::verdict};
use ftagent_tests::packet::{
    Extension, Icmp, Ipv4, Ipv6, TAGGINGS, Tcp, Transport, Udp,
    datapath::{Datapath, Outcome, class_on_host},
    ethertype, flags, frame, proto, tagged,
};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

/// An expiry that no test reaches.
const NEVER: u64 = u64::MAX;

fn net(text: &str) -> Result<IpNet> {
    text.parse().with_context(|| format!("prefix {text}"))
}

fn syn() -> Transport {
    Tcp::to(80, flags::SYN).build()
}

fn syn_from(source: IpAddr) -> Vec<u8> {
    match source {
        IpAddr::V4(source) => Ipv4::from(source).frame(&syn()),
        IpAddr::V6(source) => Ipv6::from(source).frame(&syn()),
    }
}

/// Packets of one IPv4 source in every shape that might slip past a list.
fn shapes4(plain: &Ipv4) -> Vec<(String, Vec<u8>)> {
    let bits = |fragment| Ipv4 { fragment, ..plain.clone() };
    let header = |version, ihl, total_length| Ipv4 { version, ihl, total_length, ..plain.clone() };
    let udp = Udp::new(53, 40000, &[0; 400]).build();
    let rows = [
        ("TCP", plain.clone(), syn()),
        ("UDP", plain.clone(), udp.clone()),
        ("ICMP", plain.clone(), Icmp::new(8).v4()),
        ("GRE", plain.clone(), Transport::raw(proto::GRE, &[0; 40])),
        ("an unknown protocol", plain.clone(), Transport::raw(200, &[])),
        ("one option", Ipv4 { options: vec![1; 4], ..plain.clone() }, syn()),
        ("40 bytes of options", Ipv4 { options: vec![1; 40], ..plain.clone() }, syn()),
        ("first fragment", bits(0x2000), udp.clone()),
        ("later fragment", bits(100), udp.clone()),
        ("first fragment, transport cut off", bits(0x2000), syn().cut(4)),
        ("ping of death", bits(0x1fff), udp.clone()),
        ("reserved bit", bits(0x8000), syn()),
        ("version 5", header(5, None, None), syn()),
        ("IHL 4", header(4, Some(4), None), syn()),
        ("IHL 15", header(4, Some(15), None), syn()),
        ("total length 0", header(4, None, Some(0)), syn()),
        ("total length 65535", header(4, None, Some(65535)), syn()),
        ("wrong checksum", Ipv4 { checksum: Some(0), ..plain.clone() }, syn()),
        ("TCP cut off", plain.clone(), syn().cut(3)),
        ("TCP offset 0", plain.clone(), Tcp { offset: Some(0), ..Tcp::to(80, 2) }.build()),
        ("TCP without flags", plain.clone(), Tcp::to(80, 0).build()),
        ("UDP length 0", plain.clone(), Udp { length: Some(0), ..Udp::new(1, 2, &[]) }.build()),
        ("land", Ipv4 { dst: plain.src, ..plain.clone() }, Tcp { src: 80, ..Tcp::to(80, 2) }.build()),
        ("several buffers", plain.clone(), Udp::new(1, 2, &[0; 8000]).build()),
        ("nothing behind the header", plain.clone(), Transport::raw(proto::TCP, &[])),
    ];
    rows.into_iter().map(|(name, ip, inner)| (name.to_owned(), ip.frame(&inner))).collect()
}

/// The same for IPv6.
fn shapes6(plain: &Ipv6) -> Vec<(String, Vec<u8>)> {
    let with = |extensions: Vec<Extension>| Ipv6 { extensions, ..plain.clone() };
    let many = |n| with(vec![Extension::options(proto::DESTINATION, 8); n]);
    let udp = Udp::new(53, 40000, &[0; 400]).build();
    let rows = [
        ("TCP", plain.clone(), syn()),
        ("UDP", plain.clone(), udp.clone()),
        ("ICMPv6", plain.clone(), Icmp::new(128).v6()),
        ("neighbour solicitation", plain.clone(), Icmp::new(135).v6()),
        ("hop-by-hop", with(vec![Extension::options(proto::HOP_BY_HOP, 8)]), syn()),
        ("routing", with(vec![Extension::options(proto::ROUTING, 24)]), syn()),
        ("options of 2048 bytes", with(vec![Extension::options(proto::DESTINATION, 2048)]), syn()),
        ("8 extension headers", many(8), syn()),
        ("9 extension headers", many(9), syn()),
        ("100 extension headers", many(100), syn()),
        ("atomic fragment", with(vec![Extension::fragment(0, false)]), syn()),
        ("first fragment", with(vec![Extension::fragment(0, true)]), udp.clone()),
        ("later fragment", with(vec![Extension::fragment(800, false)]), udp.clone()),
        ("past the largest datagram", with(vec![Extension::fragment(65528, false)]), udp.clone()),
        ("AH", with(vec![Extension::authentication()]), syn()),
        ("version 4", Ipv6 { version: 4, ..plain.clone() }, syn()),
        ("payload length 0", Ipv6 { payload_length: Some(0), ..plain.clone() }, syn()),
        ("payload length 65535", Ipv6 { payload_length: Some(65535), ..plain.clone() }, syn()),
        ("no next header", plain.clone(), Transport::raw(proto::NONE, &[])),
        ("TCP cut off", plain.clone(), syn().cut(3)),
        ("UDP length 0", plain.clone(), Udp { length: Some(0), ..Udp::new(1, 2, &[]) }.build()),
        ("several buffers", plain.clone(), Udp::new(1, 2, &[0; 8000]).build()),
    ];
    rows.into_iter().map(|(name, ip, inner)| (name.to_owned(), ip.frame(&inner))).collect()
}

/// Feeds every shape with every tagging; each must be dropped for `reason`, or passed, and be in
/// the class it would be in without lists.
fn check_shapes(datapath: &mut Datapath, source: IpAddr, reason: Option<DropReason>) -> Result<()> {
    let shapes = match source {
        IpAddr::V4(source) => shapes4(&Ipv4::from(source)),
        IpAddr::V6(source) => shapes6(&Ipv6::from(source)),
    };
    for (name, untagged) in shapes {
        for tags in TAGGINGS {
            let frame = tagged(&untagged, tags);
            let outcome = datapath.feed(&frame)?;
            check(&outcome, reason).with_context(|| format!("{name} from {source}, tags {tags:x?}"))?;
            ensure!(outcome.bytes == frame.len() as u64, "{name}: {} bytes", outcome.bytes);
            ensure!(class_on_host(&frame, &[]) == Some(outcome.class), "{name}: class {:?}", outcome.class);
        }
    }
    Ok(())
}

fn check(outcome: &Outcome, reason: Option<DropReason>) -> Result<()> {
    let expected = if reason.is_some() { verdict::DROP } else { verdict::PASS };
    ensure!(outcome.verdict == expected && outcome.reason == reason, "{outcome:?}, expected {reason:?}");
    Ok(())
}

const PREFIXES4: [&str; 11] = [
    "192.0.2.1/32",
    "192.0.2.0/31",
    "192.0.2.0/25",
    "192.0.2.0/24",
    "192.0.2.0/23",
    "192.0.0.0/20",
    "192.0.0.0/16",
    "192.0.0.0/9",
    "192.0.0.0/8",
    "128.0.0.0/1",
    "0.0.0.0/0",
];
const PREFIXES6: [&str; 15] = [
    "2001:db8::1/128",
    "2001:db8::/127",
    "2001:db8::/96",
    "2001:db8::/65",
    "2001:db8::/64",
    "2001:db8::/63",
    "2001:db8::/49",
    "2001:db8::/48",
    "2001:db8::/47",
    "2001:db8::/33",
    "2001:db8::/32",
    "2001:db8::/31",
    "2001::/16",
    "2000::/3",
    "::/0",
];

#[test]
fn no_shape_slips_past_a_list() -> Result<()> {
    let mut datapath = Datapath::new()?;
    let families: [(IpAddr, &[&str]); 2] = [(Ipv4::new().src.into(), &PREFIXES4), (Ipv6::new().src.into(), &PREFIXES6)];
    for (source, prefixes) in families {
        for prefix in prefixes {
            let prefix = net(prefix)?;
            let exact = prefix.prefix_len() == prefix.max_prefix_len();
            datapath.run.lists.insert(Which::Block, prefix, NEVER, 0)?;
            let reason = if exact { DropReason::BlockAddress } else { DropReason::BlockPrefix };
            check_shapes(&mut datapath, source, Some(reason)).with_context(|| format!("{prefix} blocked"))?;
            ensure!(datapath.run.lists.remove(Which::Block, prefix)?, "{prefix} was not there");
            check_shapes(&mut datapath, source, None).with_context(|| format!("{prefix} unblocked"))?;

            let mut feed = FeedSet::default();
            feed.push(prefix, 3);
            datapath.run.lists.publish_feeds(feed, NEVER)?;
            let reason = if exact { DropReason::FeedAddress } else { DropReason::FeedPrefix };
            check_shapes(&mut datapath, source, Some(reason)).with_context(|| format!("{prefix} in a feed"))?;
            datapath.run.lists.publish_feeds(FeedSet::default(), NEVER)?;
            check_shapes(&mut datapath, source, None).with_context(|| format!("{prefix} out of the feed"))?;
        }
    }
    Ok(())
}

/// A header that ends before the source address is complete names no source; with it, it does.
#[test]
fn the_source_counts_as_soon_as_its_header_is_there() -> Result<()> {
    let mut datapath = Datapath::new()?;
    datapath.run.lists.insert(Which::Block, net("0.0.0.0/0")?, NEVER, 0)?;
    datapath.run.lists.insert(Which::Block, net("::/0")?, NEVER, 0)?;
    for (frame, header) in [(Ipv4::new().frame(&syn()), 20), (Ipv6::new().frame(&syn()), 40)] {
        for tags in TAGGINGS {
            let frame = tagged(&frame, tags);
            let whole = 14 + 4 * tags.len() + header;
            for bytes in 14..frame.len() {
                let reason = (bytes >= whole).then_some(DropReason::BlockPrefix);
                check(&datapath.feed(&frame[..bytes])?, reason).with_context(|| format!("{bytes} bytes"))?;
            }
        }
    }
    // What has no IP source is nobody's to block.
    for number in [ethertype::ARP, ethertype::LLDP] {
        check(&datapath.feed(&frame(number, &[0; 46]))?, None)?;
    }
    Ok(())
}

#[test]
fn entries_expire_at_their_jiffy() -> Result<()> {
    let mut datapath = Datapath::new()?;
    for (source, wide) in [(Ipv4::new().src.into(), "192.0.2.0/24"), (Ipv6::new().src.into(), "2001:db8::/40")] {
        let frame = syn_from(source);
        for (prefix, reason) in [(IpNet::from(source), DropReason::BlockAddress), (net(wide)?, DropReason::BlockPrefix)]
        {
            let end = 1000 * JIFFY_NS;
            datapath.run.lists.insert(Which::Block, prefix, jiffies(end), 0)?;
            for (now, reason) in [
                (0, Some(reason)),
                (end - JIFFY_NS, Some(reason)),
                (end - 1, Some(reason)),
                (end, None),
                (end + 1, None),
                (u64::MAX / 2, None),
            ] {
                datapath.run.set_time(now);
                check(&datapath.feed(&frame)?, reason).with_context(|| format!("{prefix} at {now} ns"))?;
            }
            datapath.run.set_time(end);
            datapath.run.lists.insert(Which::Block, prefix, jiffies(2 * end), 0)?;
            check(&datapath.feed(&frame)?, Some(reason)).context("renewed")?;
            datapath.run.lists.remove(Which::Block, prefix)?;
        }
    }
    Ok(())
}

#[test]
fn feeds_share_an_expiry_that_moves() -> Result<()> {
    let mut datapath = Datapath::new()?;
    let sources: [IpAddr; 2] = [Ipv4::new().src.into(), Ipv6::new().src.into()];
    let mut feed = FeedSet::default();
    sources.iter().for_each(|source| feed.push(IpNet::from(*source), 0));
    let (first, second) = (50 * JIFFY_NS, 90 * JIFFY_NS);
    datapath.run.lists.publish_feeds(feed, jiffies(first))?;
    let dropped = Some(DropReason::FeedAddress);
    let mut at = |now, reason| -> Result<()> {
        datapath.run.set_time(now);
        for source in sources {
            check(&datapath.feed(&syn_from(source))?, reason).with_context(|| format!("{source} at {now} ns"))?;
        }
        if now == first {
            datapath.run.lists.renew_feeds(jiffies(second));
        }
        Ok(())
    };
    at(first - 1, dropped)?;
    at(first, None)?;
    at(first + 1, dropped)?;
    at(second - 1, dropped)?;
    at(second, None)
}

#[test]
fn the_allow_list_beats_every_block() -> Result<()> {
    let mut datapath = Datapath::new()?;
    let end = 10 * JIFFY_NS;
    let mut overruled = 0;
    for (source, wide) in [(Ipv4::new().src.into(), "192.0.2.0/23"), (Ipv6::new().src.into(), "2001:db8::/40")] {
        let exact = IpNet::from(source);
        datapath.run.lists.insert(Which::Block, exact, NEVER, 0)?;
        let mut feed = FeedSet::default();
        feed.push(exact, 0);
        datapath.run.lists.publish_feeds(feed, NEVER)?;
        for allowed in [exact, net(wide)?] {
            datapath.run.set_time(0);
            check_shapes(&mut datapath, source, Some(DropReason::BlockAddress)).context("not yet allowed")?;
            datapath.run.lists.insert(Which::Allow, allowed, jiffies(end), 0)?;
            let before = datapath.counters()?.seen();
            check_shapes(&mut datapath, source, None).with_context(|| format!("{allowed} allowed"))?;
            let counters = datapath.counters()?;
            overruled += counters.seen() - before;
            ensure!(counters.overruled == overruled, "{} overruled, expected {overruled}", counters.overruled);
            // An exemption ends at its jiffy like a block.
            datapath.run.set_time(end);
            check(&datapath.feed(&syn_from(source))?, Some(DropReason::BlockAddress))?;
            datapath.run.lists.remove(Which::Allow, allowed)?;
        }
    }
    Ok(())
}

#[test]
fn generations_replace_each_other() -> Result<()> {
    let mut datapath = Datapath::new()?;
    let kept: [IpAddr; 2] = ["203.0.113.9".parse()?, "2001:db8:9::9".parse()?];
    kept.iter().try_for_each(|ip| datapath.run.lists.insert(Which::Block, IpNet::from(*ip), NEVER, 0))?;
    // Six generations that overlap: each has three of the networks, the last ones are empty.
    for generation in 0..8u8 {
        let listed = |n: u8| generation < 6 && (generation..generation + 3).contains(&n);
        let prefixes = |n: u8| -> Result<[IpNet; 2]> {
            Ok([net(&format!("198.18.{n}.0/24"))?, net(&format!("2001:db8:{n:x}::/48"))?])
        };
        let mut feed = FeedSet::default();
        for n in (0..10).filter(|n| listed(*n)) {
            prefixes(n)?.into_iter().for_each(|prefix| feed.push(prefix, 1));
        }
        datapath.run.lists.publish_feeds(feed, NEVER)?;
        for n in 0..10 {
            for prefix in prefixes(n)? {
                let reason = listed(n).then_some(DropReason::FeedPrefix);
                let outcome = datapath.feed(&syn_from(prefix.addr()))?;
                check(&outcome, reason).with_context(|| format!("generation {generation}, {prefix}"))?;
            }
        }
        for source in kept {
            check(&datapath.feed(&syn_from(source))?, Some(DropReason::BlockAddress))?;
        }
    }
    Ok(())
}

fn random_net(random: &mut ChaCha8Rng, shortest: u8) -> IpNet {
    // Half of the networks lie close together, so that they nest and share filter bits.
    let near = random.random_bool(0.5);
    if random.random_bool(0.5) {
        let bits: u32 = random.random();
        let bits = if near { 0x0a14_1e00 | bits & 0x3ff } else { bits };
        let length = random.random_range(shortest.min(32)..=32);
        IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::from(bits), length).trunc())
    } else {
        let bits: u128 = random.random();
        let base = 0x2001_0db8_0000_0000_0000_0000_0000_0000;
        let bits = if near { base | bits & 0x1_ffff_ffff_ffff_ffff_ffff_ffff } else { bits };
        let length = random.random_range(shortest..=128);
        IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::from(bits), length).trunc())
    }
}

/// The addresses at and just outside the edges of a network, and one inside.
fn edges(random: &mut ChaCha8Rng, net: &IpNet) -> [IpAddr; 5] {
    match net {
        IpNet::V4(net) => {
            let (first, last) = (net.network().to_bits(), net.broadcast().to_bits());
            let inside = random.random_range(first..=last);
            [first, last, first.wrapping_sub(1), last.wrapping_add(1), inside].map(|bits| Ipv4Addr::from(bits).into())
        }
        IpNet::V6(net) => {
            let (first, last) = (net.network().to_bits(), net.broadcast().to_bits());
            let inside = random.random_range(first..=last);
            [first, last, first.wrapping_sub(1), last.wrapping_add(1), inside].map(|bits| Ipv6Addr::from(bits).into())
        }
    }
}

/// For random lists the verdict is that of a search through all prefixes.
#[test]
fn verdicts_equal_a_search_through_all_prefixes() -> Result<()> {
    let mut random = ChaCha8Rng::seed_from_u64(7);
    let mut datapath = Datapath::new()?;
    let covers = |nets: &[IpNet], address: &IpAddr| nets.iter().any(|net| net.contains(address));
    let mut dropped = 0;
    for round in 0..24u8 {
        // Short prefixes cover nearly everything: most rounds do without them.
        let shortest = [0, 8, 8, 16, 20, 24][usize::from(round % 6)];
        let mut some = |n| -> Vec<IpNet> { (0..n).map(|_| random_net(&mut random, shortest)).collect() };
        let (blocks, feeds, allows) = (some(40), some(60), some(10));
        for net in &blocks {
            datapath.run.lists.insert(Which::Block, *net, NEVER, 0)?;
        }
        for net in &allows {
            datapath.run.lists.insert(Which::Allow, *net, NEVER, 0)?;
        }
        let mut set = FeedSet::default();
        feeds.iter().for_each(|net| set.push(*net, 0));
        datapath.run.lists.publish_feeds(set, NEVER)?;

        let listed: Vec<IpNet> = [&blocks[..], &feeds, &allows].concat();
        let mut addresses: Vec<IpAddr> = listed.iter().flat_map(|net| edges(&mut random, net)).collect();
        addresses.extend((0..200).map(|_| random_net(&mut random, 128).addr()));
        for address in addresses {
            let blocked = covers(&blocks, &address);
            let expected = (blocked || covers(&feeds, &address)) && !covers(&allows, &address);
            let outcome = datapath.feed(&syn_from(address))?;
            let place = || format!("round {round}, {address}: {:?}", outcome.reason);
            ensure!((outcome.verdict == verdict::DROP) == expected, "{}, expected a drop: {expected}", place());
            let by_block = matches!(outcome.reason, Some(DropReason::BlockAddress | DropReason::BlockPrefix));
            ensure!(by_block == (expected && blocked), "{}: blocks come before feeds", place());
            dropped += u32::from(expected);
        }
        blocks.iter().try_for_each(|net| datapath.run.lists.remove(Which::Block, *net).map(drop))?;
        allows.iter().try_for_each(|net| datapath.run.lists.remove(Which::Allow, *net).map(drop))?;
    }
    ensure!(dropped > 5000, "only {dropped} drops: the lists are too thin to show anything");
    Ok(())
}
