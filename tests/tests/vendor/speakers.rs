//! ExaBGP, GoBGP and BIRD: what they make of the text is compared with the route that was meant, octet for octet
//! where they say it.

use std::{
    fs,
    process::Command,
    thread::sleep,
    time::{Duration, Instant},
};

use ftagent::rule::{
    Action, FlowMatch,
    flowspec::{Bitmask, Component, FlowSpec, Numeric, families},
    vendor::{BlackHole, CannotSay, End, Options, Text},
};
use ftagent_tests::{peers, require_root, sandbox::Sandbox};
use serde_json::Value;

use super::{draw, platform, run};

/// Rules with their texts, and the routes that they are.
struct Drawn {
    matches: FlowMatch,
    action: Action,
    text: Text,
    routes: Vec<FlowSpec>,
}

fn drawn(name: &str, count: usize) -> Vec<Drawn> {
    let mut all = Vec::new();
    let mut cannot: Vec<CannotSay> = Vec::new();
    for (number, (matches, action)) in draw::rules(21, 2 * count, true).into_iter().zip(draw::actions(22)).enumerate() {
        let options = Options::new(&format!("r{number}"), None).unwrap();
        match (platform(name).rule)(&matches, action, &options) {
            Ok(text) => {
                let routes =
                    families(&matches).into_iter().filter_map(|family| FlowSpec::compile(&matches, family).ok());
                let routes = routes.map(|compiled| compiled.spec).collect();
                all.push(Drawn { matches, action, text, routes });
            }
            Err(error) => cannot.push(error),
        }
    }
    assert!(all.len() >= count, "{name} cannot say {cannot:#?}");
    all.truncate(count);
    all
}

fn holes() -> Vec<BlackHole> {
    let own = ["64500:666", "4200000000:666:0"].map(|text| text.parse().unwrap()).to_vec();
    let hole =
        |net: &str, end, communities| BlackHole::new(net.parse().unwrap(), end, communities, None, false).unwrap();
    vec![
        hole("198.51.100.7/32", End::Destination, Vec::new()),
        hole("2001:db8::7/128", End::Destination, Vec::new()),
        hole("203.0.113.0/24", End::Source, own.clone()),
        hole("2001:db8:1::/48", End::Source, own).exported(),
    ]
}

/// Prints the NLRI and the attributes of every route of a configuration, in its order.
const READ: &str = "import sys\nfrom exabgp.configuration.setup import environment\nenvironment.application='exabgp'\n\
                    env=environment.setup('')\nenv.log.enable=False\nfrom exabgp.configuration.configuration import \
                    Configuration\nc=Configuration([sys.argv[1]])\nif c.reload() is not True: sys.exit(str(c.error))\n\
                    for n in c.neighbors.values():\n  for h in n.changes:\n    print(h.nlri.pack().hex(), \
                    getattr(h.nlri,'nexthop',''), h.attributes, sep='|')\n";

#[test]
fn exabgp_understands_what_was_meant() {
    if !peers::need("texts for ExaBGP", &["exabgp", "python3"]) {
        return;
    }
    let [mut exabgp, again] = ["exabgp"; 2].map(|name| peers::program(name).unwrap());
    let all = drawn("exabgp", 60);
    let options = Options::new("tools", None).unwrap();
    let holes: Vec<Text> =
        holes().iter().map(|hole| platform("exabgp").black_hole.unwrap()(hole, &options).unwrap()).collect();
    let inside = |text: &str, word: &str| {
        let text = text.strip_prefix(&format!("{word} {{\n")).unwrap().strip_suffix("}\n").unwrap();
        text.to_owned()
    };
    let flows: String = all.iter().map(|one| inside(&one.text.text, "flow")).collect();
    let routes: String = holes.iter().map(|text| inside(&text.text, "static")).collect();
    let configuration = format!(
        "neighbor 127.0.0.2 {{\n router-id 127.0.0.1; local-address 127.0.0.1; local-as 65001; peer-as 65002;\n family {{ \
         ipv4 unicast; ipv6 unicast; ipv4 flow; ipv6 flow; }}\n static {{\n{routes} }}\n flow {{\n{flows} }}\n}}\n"
    );
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("exabgp.conf");
    fs::write(&file, &configuration).unwrap();
    let (well, said) = run(exabgp.arg("--test").arg(&file), "");
    assert!(well && !said.contains("error"), "{said}");
    // Its own parser, asked for what it made of each.
    let mut python = Command::new("python3");
    python.args(["-c", READ]).arg(&file);
    python.envs(again.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let (well, said) = run(&mut python, "");
    assert!(well, "{said}");
    let lines: Vec<&str> = said.lines().filter(|line| line.contains('|')).collect();
    let mut left = lines.clone();
    let mut found = |nlri: &str, attributes: &str, what: &str| {
        let at = left.iter().position(|line| line.starts_with(nlri) && line.contains(attributes));
        let at = at.unwrap_or_else(|| panic!("{what}: no {nlri} with {attributes} in\n{}", left.join("\n")));
        left.remove(at);
    };
    for one in &all {
        for route in &one.routes {
            let nlri: String = route.encode().iter().map(|byte| format!("{byte:02x}")).collect();
            let attributes = match one.action.to_string().as_str() {
                "drop" => "rate-limit:0",
                "rate-limit 10000000 bps" => "rate-limit:1250000",
                "rate-limit 12345 bps" => "rate-limit:1543",
                "rate-limit 300 pps" => "0x800C000043960000",
                "rate-limit 7000 pps" => "0x800C000045DAC000",
                other => panic!("{other}"),
            };
            found(&format!("{nlri}|"), attributes, &format!("{} ({})", one.matches, one.text.text));
        }
    }
    found("20c6336407|192.0.2.1|", "community [ blackhole no-export ]", "a black hole");
    found("8020010db8000000000000000000000007|100::1|", "community [ blackhole no-export ]", "a black hole");
    found("18cb0071|192.0.2.1|", "64500:666", "a black hole");
    found("3020010db80001|100::1|", "large-community 4200000000:666:0", "a black hole");
    // It adds the routes of a configuration twice, or not.
    assert!(left.is_empty() || left.len() == lines.len() - left.len(), "{left:#?}");
}

#[test]
fn bird_takes_every_rule() {
    if !peers::need("texts for BIRD", &["bird"]) {
        return;
    }
    let bird = peers::program("bird").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("bird.conf");
    let check = |text: &str| {
        fs::write(&file, format!("router id 192.0.2.1;\nprotocol device {{}}\n{text}")).unwrap();
        let mut command = Command::new(bird.get_program());
        command.envs(bird.get_envs().filter_map(|(name, value)| Some((name, value?))));
        run(command.arg("-p").arg("-c").arg(&file), "")
    };
    let mut whole = String::new();
    for one in drawn("bird", 60) {
        let (well, said) = check(&one.text.text);
        assert!(well, "{} then {}: {said}\n{}", one.matches, one.action, one.text.text);
        whole.push_str(&one.text.text);
    }
    for (number, hole) in holes().iter().enumerate() {
        let options = Options::new(&format!("h{number}"), None).unwrap();
        let text = platform("bird").black_hole.unwrap()(hole, &options).unwrap();
        whole.push_str(&text.text);
    }
    let (well, said) = check(&whole);
    assert!(well, "{said}");
    let (well, _) = check(
        "flow4 table t;\nprotocol static s { flow4 { table t; }; route flow4 { dst 192.0.2.1/32; sprot = 1; }; }\n",
    );
    assert!(!well, "bird takes anything");
}

/// An operator octet of RFC 8955 without what an encoder sees to: the end of the list, and the width.
const MEANING: u64 = 0x47;

fn numeric(test: &Numeric) -> (u64, u64) {
    let bit = |set: bool, value: u64| if set { value } else { 0 };
    (bit(test.and, 0x40) | bit(test.less, 4) | bit(test.more, 2) | bit(test.equal, 1), test.value)
}

fn bitmask(test: &Bitmask) -> (u64, u64) {
    let bit = |set: bool, value: u64| if set { value } else { 0 };
    (bit(test.and, 0x40) | bit(test.not, 2) | bit(test.all, 1), test.value.into())
}

/// A component as GoBGP's JSON has it, or as was meant.
type Meant = (u64, String, Vec<(u64, u64)>);

fn meant(route: &FlowSpec) -> Vec<Meant> {
    let one = |component: &Component| {
        let kind = u64::from(component.kind());
        match component {
            Component::Prefix { net, .. } => (kind, net.to_string(), Vec::new()),
            Component::Numbers(_, tests) => (kind, String::new(), tests.iter().map(numeric).collect()),
            Component::Bits(_, tests) => (kind, String::new(), tests.iter().map(bitmask).collect()),
        }
    };
    route.components().iter().map(one).collect()
}

fn read_back(nlri: &Value) -> Vec<Meant> {
    let one = |component: &Value| {
        let kind = component["type"].as_u64().unwrap();
        if let Some(prefix) = component["value"]["prefix"].as_str() {
            // IPv6 has an offset behind the length.
            let parts: Vec<&str> = prefix.split('/').collect();
            assert!(parts.get(2).is_none_or(|offset| *offset == "0"), "{prefix}");
            return (kind, format!("{}/{}", parts[0], parts[1]), Vec::new());
        }
        let items = component["value"].as_array().unwrap().iter();
        let item = |item: &Value| (item["op"].as_u64().unwrap() & MEANING, item["value"].as_u64().unwrap());
        (kind, String::new(), items.map(item).collect())
    };
    nlri["value"].as_array().unwrap().iter().map(one).collect()
}

#[test]
fn gobgp_understands_what_was_meant() {
    require_root!();
    if !peers::need("texts for GoBGP", &["gobgpd", "gobgp"]) {
        return;
    }
    let [mut daemon, client] = ["gobgpd", "gobgp"].map(|name| peers::program(name).unwrap());
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("gobgpd.toml");
    fs::write(&file, "[global.config]\nas = 65001\nrouter-id = \"192.0.2.1\"\nport = -1\n").unwrap();
    daemon.args(["-t", "toml", "--pprof-disable", "--api-hosts", "127.0.0.1:50051", "-f"]).arg(&file);
    Sandbox::run(move |sandbox| {
        let _daemon = sandbox.spawn(daemon).unwrap();
        // The text as a shell gets it: quotes are part of what is tested.
        let shell = |text: &str| {
            let mut command = Command::new("sh");
            command.envs(client.get_envs().filter_map(|(name, value)| Some((name, value?))));
            let program = client.get_program().to_string_lossy();
            let text: String = text.lines().map(|line| format!("{}\n", line.replacen("gobgp", &program, 1))).collect();
            run(command.args(["-e", "-"]), &text)
        };
        let since = Instant::now();
        while !shell("gobgp global\n").0 {
            assert!(since.elapsed() < Duration::from_secs(60), "gobgpd does not answer");
            sleep(Duration::from_millis(50));
        }
        let table = |family: &str| -> Vec<Value> {
            let (well, said) = shell(&format!("gobgp -j global rib -a {family}\n"));
            assert!(well, "{said}");
            let value: Value = serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"));
            value.as_object().map(|all| all.values().cloned().collect()).unwrap_or_default()
        };
        for one in drawn("gobgp", 60) {
            let (well, said) = shell(&one.text.text);
            assert!(well, "{} then {}: {said}\n{}", one.matches, one.action, one.text.text);
            let present = [table("ipv4-flowspec"), table("ipv6-flowspec")].concat();
            let mut found: Vec<Vec<Meant>> = present.iter().map(|paths| read_back(&paths[0]["nlri"])).collect();
            let mut wanted: Vec<Vec<Meant>> = one.routes.iter().map(meant).collect();
            found.sort();
            wanted.sort();
            assert_eq!(found, wanted, "{}: {}", one.matches, one.text.text);
            let rate = match one.action.to_string().as_str() {
                "drop" => 0,
                "rate-limit 10000000 bps" => 1_250_000,
                "rate-limit 12345 bps" => 1543,
                other => panic!("{other}"),
            };
            for paths in &present {
                let attributes = paths[0]["attrs"].as_array().unwrap();
                let rates: Vec<&Value> =
                    attributes.iter().filter(|one| one["type"] == 16).map(|one| &one["value"]).collect();
                assert_eq!(rates.len(), 1, "{paths}");
                assert_eq!(rates[0][0]["subtype"], 6, "{paths}");
                assert_eq!(rates[0][0]["rate"].as_f64(), Some(f64::from(rate)), "{paths}");
            }
            let (well, said) = shell(&one.text.undo);
            assert!(well, "{said}");
            assert!(table("ipv4-flowspec").is_empty() && table("ipv6-flowspec").is_empty(), "{}", one.text.undo);
        }
        let options = Options::new("tools", None).unwrap();
        for hole in holes() {
            let text = platform("gobgp").black_hole.unwrap()(&hole, &options).unwrap();
            let (well, said) = shell(&text.text);
            assert!(well, "{said}\n{}", text.text);
            let family = if hole.net.addr().is_ipv4() { "ipv4" } else { "ipv6" };
            let (_, shown) = shell(&format!("gobgp global rib -a {family}\n"));
            assert!(shown.contains(&hole.net.to_string()) && shown.contains(&hole.next_hop.to_string()), "{shown}");
            assert_eq!(shown.contains("no-export"), !hole.export, "{shown}");
            let communities =
                if hole.end == End::Source { ["64500:666", "4200000000:666:0"] } else { ["blackhole"; 2] };
            assert!(communities.iter().all(|community| shown.contains(community)), "{shown}");
            let (well, said) = shell(&text.undo);
            assert!(well && table(family).is_empty(), "{said}");
        }
        let (well, _) =
            shell("gobgp global rib add -a ipv4-flowspec match destination 192.0.2.1/32 sprot '==1' then discard\n");
        assert!(!well, "gobgp takes anything");
    })
    .unwrap();
}
