//! Routes as gobgp prints them, as rules of nft.
//!
//! Made from RFC 8955 by trying every value of a component, and knowing nothing of the agent's own code: what is
//! enforced is what a stranger reads in the routes.

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

/// Returns the statements of the nft rule that does what a route of the family `ipv4-flowspec` asks.
///
/// # Errors
/// For what is not known here: the route is then not enforced, and said.
pub(super) fn rule(route: &Value) -> Result<String> {
    let components = route["nlri"]["value"].as_array().context("no components")?;
    if components.is_empty() {
        bail!("a route without components means every packet: a router that takes it is cut off");
    }
    let mut words = Vec::new();
    for component in components {
        words.push(statement(component)?);
    }
    words.push(action(route)?);
    Ok(words.join(" "))
}

/// Returns the nft rule for a route of the family `ipv4-unicast` with the community BLACKHOLE (RFC 7999), `None` for
/// other routes.
pub(super) fn black_hole(route: &Value) -> Option<String> {
    const BLACK_HOLE: u64 = 0xffff_029a;
    let communities = attribute(route, 8)?["communities"].as_array()?;
    let prefix = route["nlri"]["prefix"].as_str()?;
    communities.iter().any(|one| one.as_u64() == Some(BLACK_HOLE)).then(|| format!("ip daddr {prefix} counter drop"))
}

fn attribute(route: &Value, kind: u64) -> Option<&Value> {
    route["attrs"].as_array()?.iter().find(|attribute| attribute["type"] == kind)
}

fn statement(component: &Value) -> Result<String> {
    let kind = component["type"].as_u64().context("a component without a type")?;
    let value = &component["value"];
    let prefix = || value["prefix"].as_str().with_context(|| format!("no prefix in {value}"));
    let numbers = |most| numbers(value, most);
    Ok(match kind {
        1 => format!("ip daddr {}", prefix()?),
        2 => format!("ip saddr {}", prefix()?),
        3 => format!("ip protocol {}", numbers(255)?),
        5 => format!("{FIRST} ip protocol {{ 6, 17 }} th dport {}", numbers(65_535)?),
        6 => format!("{FIRST} ip protocol {{ 6, 17 }} th sport {}", numbers(65_535)?),
        7 => format!("{FIRST} icmp type {}", numbers(255)?),
        8 => format!("{FIRST} icmp code {}", numbers(255)?),
        9 => format!("{FIRST} ip protocol 6 @th,104,8 {}", set(&matching(value, 255, bits)?)),
        10 => format!("ip length {}", numbers(65_535)?),
        11 => format!("ip dscp {}", numbers(63)?),
        12 => fragments(value)?,
        other => bail!("component {other} is not known to this router"),
    })
}

/// Only the first fragment has ports, and everything that is no fragment.
const FIRST: &str = "ip frag-off & 0x1fff == 0";

fn numbers(value: &Value, most: u32) -> Result<String> {
    Ok(set(&matching(value, most, number)?))
}

/// Which values of a component the tests of a route hold for: RFC 8955, 4.2.1.
fn matching(tests: &Value, most: u32, holds: fn(u64, u32, u32) -> bool) -> Result<Vec<u32>> {
    let tests = tests.as_array().context("no tests")?;
    let tests: Option<Vec<(u64, u32)>> =
        tests.iter().map(|test| Some((test["op"].as_u64()?, test["value"].as_u64()?.try_into().ok()?))).collect();
    let tests = tests.context("a test without operator or value")?;
    let all = |value: u32| {
        let (mut any, mut all) = (false, true);
        for (number, (operator, wanted)) in tests.iter().enumerate() {
            // Without the bit "and", an alternative begins.
            if number > 0 && operator & 0x40 == 0 {
                any |= all;
                all = true;
            }
            all &= holds(*operator, *wanted, value);
        }
        any || all
    };
    Ok((0..=most).filter(|value| all(*value)).collect())
}

fn number(operator: u64, wanted: u32, value: u32) -> bool {
    operator & 4 != 0 && value < wanted || operator & 2 != 0 && value > wanted || operator & 1 != 0 && value == wanted
}

fn bits(operator: u64, wanted: u32, value: u32) -> bool {
    let holds = if operator & 1 != 0 { value & wanted == wanted } else { value & wanted != 0 };
    holds != (operator & 2 != 0)
}

/// Writes values as a set of ranges.
fn set(values: &[u32]) -> String {
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for &value in values {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == value => *last = value,
            _ => ranges.push((value, value)),
        }
    }
    let text = |&(first, last): &(u32, u32)| {
        if first == last { first.to_string() } else { format!("{first}-{last}") }
    };
    format!("{{ {} }}", ranges.iter().map(text).collect::<Vec<_>>().join(", "))
}

/// Fragments, by trying every combination of the three things that can be asked.
fn fragments(tests: &Value) -> Result<String> {
    // Bits of RFC 8955, 4.2.2.12: may not be fragmented, no first one, first one, last one.
    let kinds: [(u32, &str); 5] = [
        (0, "ip frag-off & 0x7fff == 0"),
        (1, "ip frag-off & 0x7fff == 0x4000"),
        (4, "ip frag-off & 0x3fff == 0x2000"),
        (2, "ip frag-off & 0x1fff != 0 ip frag-off & 0x2000 == 0x2000"),
        (2 | 8, "ip frag-off & 0x1fff != 0 ip frag-off & 0x2000 == 0"),
    ];
    let held = matching(tests, 15, bits)?;
    let held: Vec<u32> = kinds.iter().map(|(kind, _)| *kind).filter(|kind| held.contains(kind)).collect();
    match held[..] {
        [2, 10] => Ok("ip frag-off & 0x1fff != 0".to_owned()),
        [4, 2, 10] => Ok("ip frag-off & 0x3fff != 0".to_owned()),
        [0, 1] => Ok("ip frag-off & 0x3fff == 0".to_owned()),
        [0, 1, 4] => Ok(FIRST.to_owned()),
        [one] => Ok(kinds.iter().find(|(kind, _)| *kind == one).map_or("", |(_, text)| text).to_owned()),
        _ => bail!("these fragments are not known to this router: {tests}"),
    }
}

/// What is done with a packet: the extended community of a rate in bytes a second (RFC 8955, 7.3).
fn action(route: &Value) -> Result<String> {
    let communities = attribute(route, 16).and_then(|attribute| attribute["value"].as_array());
    let rate = communities.into_iter().flatten().find(|one| one["subtype"] == 6).and_then(|one| one["rate"].as_f64());
    match rate.context("a route without a rate")? {
        0.0 => Ok("counter drop".to_owned()),
        rate => Ok(format!("limit rate over {rate:.0} bytes/second burst {:.0} bytes counter drop", rate.max(3000.0))),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn routes_become_rules() {
        let route = |components: Value, rate: f64| json!({"nlri": {"value": components}, "attrs": [{"type": 16, "value": [{"subtype": 6, "rate": rate}]}]});
        let dst = json!({"type": 1, "value": {"prefix": "10.77.0.1/32"}});
        let cases = [
            (
                route(
                    json!([dst, {"type": 3, "value": [{"op": 129, "value": 17}]}, {"type": 10, "value": [{"op": 19, "value": 1400}, {"op": 213, "value": 1500}]}]),
                    0.0,
                ),
                Some("ip daddr 10.77.0.1/32 ip protocol { 17 } ip length { 1400-1500 } counter drop"),
            ),
            (
                route(
                    json!([dst, {"type": 6, "value": [{"op": 1, "value": 53}, {"op": 129, "value": 123}]}]),
                    125_000.0,
                ),
                Some(
                    "ip daddr 10.77.0.1/32 ip frag-off & 0x1fff == 0 ip protocol { 6, 17 } th sport { 53, 123 } limit \
                     rate over 125000 bytes/second burst 125000 bytes counter drop",
                ),
            ),
            (
                route(json!([dst, {"type": 9, "value": [{"op": 1, "value": 2}, {"op": 0xc2, "value": 16}]}]), 0.0),
                Some(
                    "ip daddr 10.77.0.1/32 ip frag-off & 0x1fff == 0 ip protocol 6 @th,104,8 { 2-3, 6-7, 10-11, 14-15, \
                     34-35, 38-39, 42-43, 46-47, 66-67, 70-71, 74-75, 78-79, 98-99, 102-103, 106-107, 110-111, 130-131, \
                     134-135, 138-139, 142-143, 162-163, 166-167, 170-171, 174-175, 194-195, 198-199, 202-203, 206-207, \
                     226-227, 230-231, 234-235, 238-239 } counter drop",
                ),
            ),
            (
                route(json!([dst, {"type": 12, "value": [{"op": 0x81, "value": 2}]}]), 0.0),
                Some("ip daddr 10.77.0.1/32 ip frag-off & 0x1fff != 0 counter drop"),
            ),
            (route(json!([]), 0.0), None),
            (json!({"nlri": {"value": [dst]}, "attrs": []}), None),
        ];
        for (route, expected) in cases {
            assert_eq!(rule(&route).ok().as_deref(), expected, "{route}");
        }
        let hole =
            json!({"nlri": {"prefix": "10.77.0.1/32"}, "attrs": [{"type": 8, "communities": [4_294_902_426_u64]}]});
        assert_eq!(black_hole(&hole).as_deref(), Some("ip daddr 10.77.0.1/32 counter drop"));
        assert_eq!(black_hole(&json!({"nlri": {"prefix": "10.77.0.1/32"}, "attrs": []})), None);
    }
}
