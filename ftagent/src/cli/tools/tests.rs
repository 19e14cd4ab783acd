use clap::Parser as _;
use serde_json::json;

use super::*;
use crate::cli::{Cli, Command as Top};

fn printed(line: &[&str]) -> Result<Printed> {
    let words = ["ftagent", "tools"].iter().chain(line);
    let cli = Cli::try_parse_from(words)?;
    let Top::Tools(args) = &cli.command else { panic!("{line:?}") };
    let (how, written) = match &args.command {
        Command::Firewall(args) => (&args.how, rules(&cli, args, &chosen(&args.how.platforms, &[Place::Host])?)?),
        Command::Flowspec(args) => {
            let places = [Place::Network, Place::Receiver];
            (&args.how, routes(&cli, args, &chosen(&args.how.platforms, &places)?)?)
        }
        Command::Rtbh(args) => (&args.how, holes(args, &chosen(&args.how.platforms, &[Place::Network])?)?),
    };
    Ok(Printed { written, withdraw: how.withdraw, named: !how.platforms.is_empty() })
}

#[test]
fn losses_come_first_and_decide() {
    let line = ["flowspec", "--match", "udp dport 27015 ttl 3 dst 198.51.100.10", "--for", "exabgp"];
    let shown = printed(&line).unwrap();
    let text = shown.text();
    let wanted = "# ExaBGP 4.2: udp dst 198.51.100.10/32 dport 27015 ttl 3 then drop\n# !!! MATCHES MORE than asked for: \
                  `ttl 3` is left out: ";
    assert!(text.starts_with(wanted), "{text}");
    assert!(shown.alarms().starts_with("ftagent: exabgp: MATCHES MORE"), "{}", shown.alarms());
    assert!(shown.is_well(false) && !shown.is_well(true));
    let exact = printed(&["flowspec", "--match", "udp dst 198.51.100.10", "--for", "exabgp,gobgp"]).unwrap();
    assert!(exact.is_well(true) && exact.alarms().is_empty(), "{}", exact.alarms());
    // Those that only receive do not spoil it, unless they were asked for.
    let all = printed(&["flowspec", "--match", "udp dst 198.51.100.10"]).unwrap();
    assert!(all.is_well(true) && all.alarms().is_empty() && all.text().contains("embed flowspec"));
    let nokia = printed(&["flowspec", "--match", "udp dst 198.51.100.10", "--for", "nokia"]).unwrap();
    assert!(!nokia.is_well(false) && nokia.alarms().contains("only takes FlowSpec rules that others announce"));
}

#[test]
fn what_is_widened_is_said_by_every_platform_and_is_no_loss() {
    let all: [(&str, &str, &[&str]); 13] = [
        ("nftables", "ip4 udp sport 123", &["malformed", "first-fragments"]),
        ("nftables", "ip4 udp sport 123 frag not", &["malformed"]),
        ("nftables", "ip4 len 40-1500 src 192.0.2.0/24", &["malformed"]),
        ("nftables", "ip6 udp len 400-1500", &["malformed", "extensions"]),
        ("nftables", "ip6 udp frag is,first", &["malformed", "authentication", "extensions"]),
        ("iptables", "ip4 udp sport 123", &["malformed", "first-fragments"]),
        ("ip6tables", "ip6 udp sport 123", &["malformed", "first-fragments", "authentication", "extensions"]),
        ("ip6tables", "ip6 udp payload 0:17000326", &["malformed"]),
        ("exabgp", "udp sport 123 dst 203.0.113.5", &["malformed", "first-fragments"]),
        ("gobgp", "udp dst 2001:db8::5", &["malformed", "authentication", "extensions"]),
        ("bird", "udp dst 2001:db8::5 frag not", &["malformed", "authentication"]),
        ("junos", "tcp dport 80 dst 203.0.113.5", &["malformed", "first-fragments"]),
        ("iosxr", "udp sport 123 dst 203.0.113.5", &["malformed", "first-fragments"]),
    ];
    for (platform, rule, kinds) in all {
        let command = if rule.contains("dst") { "flowspec" } else { "firewall" };
        let shown = printed(&[command, "--match", rule, "--for", platform]).unwrap();
        let json = serde_json::to_value(&shown.written).unwrap();
        let widened = json[0]["platforms"][0]["widened"].as_array().unwrap();
        let found: Vec<&str> = widened.iter().map(|one| one["kind"].as_str().unwrap()).collect();
        assert_eq!(found, kinds, "{platform}: {rule}");
        assert_eq!(shown.text().matches("WIDENING: it also matches").count(), kinds.len(), "{}", shown.text());
        assert!(shown.alarms().is_empty() || platform == "ip6tables", "{}", shown.alarms());
    }
    let at = ["firewall", "--match", "ip4 udp payload 0:17", "--for", "nftables", "--interface", "eth0"];
    let kinds = serde_json::to_value(&printed(&at).unwrap().written).unwrap()[0]["platforms"][0]["widened"].clone();
    assert!(kinds.as_array().unwrap().iter().any(|one| one["kind"] == "padding"), "{kinds}");
    // Who walks past an authentication header finds none by its number.
    for (platform, exact) in [("nftables", true), ("ip6tables", false)] {
        let past = printed(&["firewall", "--match", "ip6 proto ah", "--for", platform]).unwrap();
        assert_eq!((past.alarms().contains("MATCHES LESS"), past.is_well(true)), (!exact, exact), "{platform}");
    }
}

#[test]
fn every_line_that_is_no_text_is_a_comment() {
    for platform in ["nftables", "iptables"] {
        let line = ["firewall", "--match", "ip4 udp sport 123", "--action", "rate-limit 1 Mbps", "--for", platform];
        let text = printed(&line).unwrap().text();
        let body = vendor::PLATFORMS.into_iter().find(|known| known.name == platform).unwrap();
        let matches = "ip4 udp sport 123".parse().unwrap();
        let options = Options::new("ftagent-tools", None).unwrap();
        let body = (body.rule)(&matches, "rate-limit 1 Mbps".parse().unwrap(), &options).unwrap();
        let rest = text.replace(&body.text, "");
        assert!(rest.len() < text.len() && rest.lines().all(|line| line.starts_with('#')), "{rest}");
    }
    let text =
        printed(&["flowspec", "--match", "udp dst 198.51.100.10", "--for", "exabgp", "--withdraw"]).unwrap().text();
    assert!(
        text.ends_with(
            "withdraw flow route { match { destination 198.51.100.10/32; protocol [ =17 ]; } then { discard; } }\n"
        ),
        "{text}"
    );
}

#[test]
fn what_is_refused_names_the_remedy() {
    let cases: [(&[&str], &str); 16] = [
        (&["flowspec"], "say which rule"),
        (&["flowspec", "--match", "udp sport 123"], "names no destination"),
        (&["flowspec", "--match", "udp dst 198.51.100.10/24"], "has host bits set: did you mean 198.51.100.0/24"),
        (&["flowspec", "--match", "udp dst 224.0.0.0/8"], "is multicast"),
        (&["flowspec", "--match", "dst 0.0.0.0/0"], "would match nearly every IPv4 packet"),
        (&["flowspec", "--match", "udp dst 198.51.100.10", "--action", "count"], "only counts is nothing upstream"),
        (&["flowspec", "--match", "udp dst 198.51.100.10", "--for", "nftables"], "`nftables` is no platform of this"),
        (&["firewall", "--match", "any"], "would match every packet"),
        (&["firewall", "--match", "tcp"], "would match every TCP packet"),
        (&["firewall", "--match", "udp flags syn"], "matches no packet"),
        (&["firewall", "--match", "udp sport 5", "--action", "challenge"], "only the agent itself"),
        (&["firewall", "--match", "udp sport 5 then drop", "--action", "drop"], "leave one of them out"),
        (&["firewall", "--match", "udp sport 5", "--name", "a b"], "is no name"),
        (&["firewall", "--match", "udp sport 5", "--interface", "a\"b"], "is no name of an interface"),
        (&["rtbh", "10.0.0.0/8"], "is wider than a /24"),
        (&["rtbh", "198.51.100.10/24"], "did you mean 198.51.100.0/24 or 198.51.100.10/32?"),
    ];
    for (line, wanted) in cases {
        let said = match printed(line) {
            Ok(printed) => {
                assert!(!printed.is_well(false), "{line:?}");
                printed.alarms()
            }
            Err(error) => format!("{error:#}"),
        };
        assert!(said.contains(wanted), "{line:?}: {said}");
    }
}

#[test]
fn rules_are_taken_out_of_incidents() {
    let rule = |matches: &str, state: &str| json!({ "match": matches, "action": "drop", "state": state });
    let one = json!({ "id": "a", "rules": [rule("udp sport 123", "enforcing"), rule("udp sport 53", "withdrawn")] });
    let two = json!({ "id": "b", "rules": [rule("udp sport 123", "enforcing"), rule("udp sport 19", "ended")] });
    let texts = |value, ended| -> Vec<String> {
        input::of_incidents(value, ended).unwrap().iter().map(|(matches, _)| matches.to_string()).collect()
    };
    assert_eq!(texts(one.clone(), true), ["udp sport 123"]);
    assert_eq!(texts(json!([one, two]), true), ["udp sport 123", "udp sport 19"]);
    assert_eq!(texts(json!({ "now_ms": 1, "incidents": [two] }), false), ["udp sport 123"]);
    let cases = [
        (json!([]), "there is no rule"),
        (json!({ "id": "a", "rules": [rule("udp sport 19", "ended")] }), "--ended takes those"),
        (json!({ "id": "a", "rules": [rule("upd", "enforcing")] }), "a rule of incident a"),
        (json!({ "x": 1 }), "these are no incidents"),
    ];
    for (value, wanted) in cases {
        let error = format!("{:#}", input::of_incidents(value, false).unwrap_err());
        assert!(error.contains(wanted), "{error}");
    }
}
