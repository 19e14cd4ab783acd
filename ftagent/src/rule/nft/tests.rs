use super::*;
use crate::rule::parse;

fn compiled(text: &str) -> Compiled {
    let (matches, action) = parse(text).unwrap();
    compile(&matches, action).unwrap()
}

/// One family's branch: what all packets are asked, and how many conjunctions leave and take.
fn shown(branch: Option<&Branch>) -> String {
    let Some(branch) = branch else { return "nothing".to_owned() };
    let words = |tests: &[Test]| tests.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    let parts = [
        words(&branch.all),
        branch.first.iter().map(|tests| format!("!({})", words(tests))).collect::<Vec<_>>().join(" "),
        branch.leave.iter().map(|tests| format!("-({})", words(tests))).collect::<Vec<_>>().join(" "),
        branch.take.iter().map(|tests| format!("+({})", words(tests))).collect::<Vec<_>>().join(" "),
    ];
    parts.iter().filter(|part| !part.is_empty()).cloned().collect::<Vec<_>>().join(" ")
}

#[test]
fn dimensions() {
    let cases = [
        ("ip4 then drop", "+()", "nothing"),
        ("src 10.0.0.0/8 dst 192.0.2.1 then drop", "ip saddr 10.0.0.0/8 ip daddr 192.0.2.1/32 +()", "nothing"),
        ("src ::/0 then drop", "nothing", "+()"),
        ("ip4 proto gre,60-70 then drop", "+(meta l4proto { 47, 60-70 })", "nothing"),
        (
            "ip4 udp sport 53,100-200 then drop",
            "ip frag-off & 0x3fff == 0x0 +(meta l4proto 17 th sport { 53, 100-200 })",
            "nothing",
        ),
        ("ip4 sport 53 then drop", "ip frag-off & 0x3fff == 0x0 +(meta l4proto { 6, 17 } th sport 53)", "nothing"),
        (
            "ip4 tcp port 80 then drop",
            "ip frag-off & 0x3fff == 0x0 +(meta l4proto 6 th sport 80) +(meta l4proto 6 th dport 80)",
            "nothing",
        ),
        (
            "ip4 tcp flags syn/syn+ack dport 0-65535 then drop",
            "ip frag-off & 0x3fff == 0x0 +(meta l4proto 6 @th,104,8 { 0x2-0x3, 0x6-0x7, 0xa-0xb, 0xe-0xf, 0x22-0x23, 0x26-0x27, 0x2a-0x2b, 0x2e-0x2f, 0x42-0x43, 0x46-0x47, 0x4a-0x4b, 0x4e-0x4f, 0x62-0x63, 0x66-0x67, 0x6a-0x6b, 0x6e-0x6f, 0x82-0x83, 0x86-0x87, 0x8a-0x8b, 0x8e-0x8f, 0xa2-0xa3, 0xa6-0xa7, 0xaa-0xab, 0xae-0xaf, 0xc2-0xc3, 0xc6-0xc7, 0xca-0xcb, 0xce-0xcf, 0xe2-0xe3, 0xe6-0xe7, 0xea-0xeb, 0xee-0xef })",
            "nothing",
        ),
        ("ip4 tcp icmp-type 3 then drop", "nothing", "nothing"),
        (
            "icmp icmp-type 3 icmp-code 0-4 then drop",
            "ip frag-off & 0x3fff == 0x0 +(meta l4proto 1 @th,0,8 0x3 @th,8,8 0x0-0x4)",
            "-(frag frag-off != 0) -(frag frag-off 0 frag more-fragments 1) +(meta l4proto 1 @th,0,8 0x3 @th,8,8 0x0-0x4)",
        ),
        ("len 40-60,65535 then drop", "ip length { 40-60, 65535 } +()", "ip6 length { 0-20, 65495-65535 } +()"),
        ("len 39 then drop", "ip length 39 +()", "nothing"),
        (
            "dscp 0,46-63 then drop",
            "@nh,8,8 { 0x0-0x3, 0xb8-0xff } +()",
            "@nh,0,16 { 0x6000-0x603f, 0x6b80-0x6fff } +()",
        ),
        ("ttl 1-5 then drop", "ip ttl 1-5 +()", "ip6 hoplimit 1-5 +()"),
        (
            "ip4 frag is then drop",
            "ip frag-off & 0x7fff == { 0x1-0x1fff, 0x2001-0x3fff, 0x4001-0x5fff, 0x6001-0x7fff } +()",
            "nothing",
        ),
        (
            "frag first then drop",
            "ip frag-off & 0x7fff == { 0x2000, 0x6000 } +()",
            "-(frag frag-off != 0) -(frag frag-off 0 frag more-fragments 0) -(exthdr frag missing) +()",
        ),
        ("frag dont then drop", "ip frag-off & 0x7fff == 0x4000-0x7fff +()", "nothing"),
        (
            "frag not then drop",
            "ip frag-off & 0x3fff == 0x0 +()",
            "!(ip6 nexthdr 51) !(hbh nexthdr 51) !(dst nexthdr 51) !(rt nexthdr 51) -(frag frag-off != 0) -(frag frag-off 0 frag more-fragments 1) +()",
        ),
        ("frag is udp dport 5 then drop", "nothing", "nothing"),
        (
            "ip6 proto ah,60 then drop",
            "nothing",
            "+(meta l4proto { 51, 60 }) +(ip6 nexthdr 51) +(hbh nexthdr 51) +(dst nexthdr 51) +(rt nexthdr 51) +(frag nexthdr 51) +(frag nexthdr 60 frag frag-off != 0) +(frag nexthdr 60 frag frag-off 0 frag more-fragments 1)",
        ),
    ];
    for (text, ip4, ip6) in cases {
        let compiled = compiled(text);
        assert_eq!(shown(compiled.ip4.as_ref()), ip4, "{text}");
        assert_eq!(shown(compiled.ip6.as_ref()), ip6, "{text}");
    }
}

#[test]
fn payload_is_looked_for_behind_each_header() {
    let udp = compiled("ip4 udp payload 0:1700..2a05 then drop");
    let branch = udp.ip4.unwrap();
    assert_eq!(
        shown(Some(&Branch { leave: Vec::new(), ..branch.clone() })),
        "ip frag-off & 0x3fff == 0x0 +(meta l4proto 17 ip length >= 33 @th,64,32 & 0xffff00ff == 0x1700002a @th,96,8 0x5)"
    );
    assert_eq!(branch.leave.len(), 10, "one for each length of options");
    assert_eq!(udp.widened, [Widened::Malformed]);
    let gre = compiled("ip4 gre payload 0:.7 then drop");
    assert_eq!(
        shown(Some(&Branch { leave: Vec::new(), ..gre.ip4.unwrap() })),
        "ip frag-off & 0x3fff == 0x0 +(ip length >= 21 @th,0,8 & 0xf == 0x7 meta l4proto 47)"
    );
    let tcp = compiled("ip6 tcp payload 4:ff then drop");
    let branch = tcp.ip6.unwrap();
    assert_eq!(
        (branch.take.len(), tcp.widened),
        (11, vec![Widened::Malformed, Widened::Padding, Widened::Authentication, Widened::FirstFragment])
    );
    assert_eq!(
        shown(Some(&Branch { take: branch.take[1..2].to_vec(), ..Branch::default() })),
        "+(meta l4proto 6 @th,96,8 & 0xf0 == 0x60 ip6 length >= 29 @th,224,8 0xff)"
    );
}

#[test]
fn what_is_done() {
    let verdict = |text: &str| compile(&FlowMatch::default(), text.parse().unwrap()).map(|compiled| compiled.verdict);
    assert_eq!(verdict("drop"), Ok(Verdict::Drop));
    assert_eq!(verdict("count"), Ok(Verdict::Count));
    assert_eq!(verdict("rate-limit 1000 pps"), Ok(Verdict::Limit(Limit { rate: 1000, burst: 25, bytes: false })));
    assert_eq!(verdict("rate-limit 8 Mbps"), Ok(Verdict::Limit(Limit { rate: 1_000_000, burst: 65_575, bytes: true })));
    assert_eq!(verdict("rate-limit 200 Gbps"), Err(CannotSay::Rate(1 << 34)));
    assert_eq!(verdict("challenge"), Err(CannotSay::Challenge));
    assert_eq!(verdict("capture"), Err(CannotSay::Capture));
    assert_eq!(compile(&FlowMatch::default(), Action::RateLimit(Rate::Pps(0))).unwrap().verdict, Verdict::Drop);
}
