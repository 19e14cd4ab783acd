//! Where the table hangs, with a kernel that says no at the right moments.

use std::sync::{Arc, Mutex};

use super::*;
use crate::rule::{Action, Origin, Rule};

/// A kernel that refuses what has one of these words in it, remembers the rest, and lists what that made.
#[derive(Debug, Default)]
struct Kernel {
    refuses: Vec<&'static str>,
    tables: Vec<&'static str>,
    ran: Vec<String>,
    /// What our table has in it.
    objects: Vec<Value>,
    /// Listings without what sets hold, and with it.
    looks: [usize; 2],
}

impl Kernel {
    /// Does a command that adds something, fills a set, or removes the table.
    fn obey(&mut self, command: &Value) {
        let Some((verb, object)) = command.as_object().and_then(|command| command.iter().next()) else { return };
        let Some((kind, body)) = object.as_object().and_then(|object| object.iter().next()) else { return };
        let is_set = |object: &&mut Value| object.pointer("/set/name") == Some(&body["name"]);
        match (verb.as_str(), kind.as_str()) {
            _ if body.get("table").or(body.get("name")) != Some(&json!(words::TABLE)) => {}
            ("delete", "table") => self.objects.clear(),
            ("flush", "set") | ("add", "element") => {
                let set = self.objects.iter_mut().find(is_set).unwrap();
                set["set"]["elem"] = body.get("elem").cloned().unwrap_or(Value::Null);
            }
            ("add", _) => self.objects.push(object.clone()),
            _ => {}
        }
    }
}

#[derive(Clone, Debug, Default)]
struct Fake(Arc<Mutex<Kernel>>);

impl Runner for Fake {
    fn run(&mut self, commands: Vec<Value>) -> Result<Vec<Value>, NftError> {
        let mut kernel = self.0.lock().unwrap();
        let text = Value::Array(commands.clone()).to_string();
        if text.contains("\"list\":{\"tables\"") {
            let table = |family| json!({ "table": { "family": family, "name": "ftagent" } });
            return Ok(kernel.tables.iter().map(table).collect());
        }
        if text.starts_with("[{\"list\":{\"table\"") {
            kernel.looks[1] += 1;
            return Ok(kernel.objects.clone());
        }
        if let Some(word) = kernel.refuses.iter().find(|word| text.contains(**word)) {
            return Err(NftError::Refused(format!("Error: {word}")));
        }
        commands.iter().for_each(|command| kernel.obey(command));
        kernel.ran.push(text);
        Ok(Vec::new())
    }

    fn terse(&mut self, _: Vec<Value>) -> Result<Vec<Value>, NftError> {
        let mut kernel = self.0.lock().unwrap();
        kernel.looks[0] += 1;
        let mut objects = kernel.objects.clone();
        let sets = objects.iter_mut().filter_map(|object| object.get_mut("set")?.as_object_mut());
        sets.for_each(|set| drop(set.remove("elem")));
        Ok(objects)
    }
}

fn wanted(id: u32, matches: &str) -> Wanted {
    let (matches, reason) = (matches.parse().unwrap(), "a test".to_owned());
    Wanted { id, rule: Rule { matches, action: Action::Drop, origin: Origin::Config, reason }, ttl_ms: 60_000 }
}

/// What the kernel refuses, where the table hangs then (none: nowhere), and how many rules are left out.
#[test]
fn it_falls_back_only_where_an_interface_takes_no_table_at_all() {
    let rows: [(&[&str], Option<Hook>, usize); 4] = [
        (&[], Some(Hook::Ingress), 0),
        // One rule is refused: that is no reason to hang elsewhere.
        (&["lease7"], Some(Hook::Ingress), 1),
        // No table can be hung at an ingress.
        (&["\"hook\":\"ingress\""], Some(Hook::Prerouting), 0),
        (&["\"hook\""], None, 0),
    ];
    for (refuses, hook, refused) in rows {
        let fake = Fake::default();
        fake.0.lock().unwrap().refuses = refuses.to_vec();
        let mut table = Table::new(Box::new(fake.clone()), vec!["lo".to_owned()]);
        let rules = [wanted(7, "udp sport 123"), wanted(8, "udp sport 53")];
        assert_eq!(table.apply(&rules, Instant::now()).is_ok(), hook.is_some(), "{refuses:?}");
        assert_eq!((table.hook(), table.refused().len()), (hook, refused), "{refuses:?}");
    }
}

#[test]
fn what_hung_elsewhere_goes_with_the_same_change() {
    let fake = Fake::default();
    fake.0.lock().unwrap().tables = vec!["inet", "ip"];
    let mut table = Table::new(Box::new(fake.clone()), vec!["lo".to_owned()]);
    table.apply(&[wanted(7, "udp sport 123")], Instant::now()).unwrap();
    let ran = fake.0.lock().unwrap().ran.clone();
    assert!(ran[0].starts_with("[{\"delete\":{\"table\":{\"family\":\"inet\",\"name\":\"ftagent\"}}}"), "{}", ran[0]);
    // A family without a table of ours is not named.
    let fake = Fake::default();
    let mut table = Table::new(Box::new(fake.clone()), vec!["lo".to_owned()]);
    table.apply(&[wanted(7, "udp sport 123")], Instant::now()).unwrap();
    assert!(!fake.0.lock().unwrap().ran[0].contains("inet"));
}

#[test]
fn long_lists_are_listed_once_a_minute() {
    let entry =
        |i: u32| Entry { net: ipnet::Ipv4Net::new((0x0a00_0000 + 2 * i).into(), 32).unwrap().into(), lasts: None };
    for (length, whole, seen) in [(4, 121, 121), (1000, 3, 180)] {
        let fake = Fake::default();
        let mut table = Table::new(Box::new(fake.clone()), vec!["lo".to_owned()]);
        table.set_lists(Vec::new(), (0..length).map(entry).collect());
        let begun = Instant::now();
        table.apply(&[], begun).unwrap();
        let mut look = |second| table.reconcile(&[], begun + Duration::from_secs(second)).unwrap();
        (0..121).for_each(|second| drop(look(second)));
        {
            let mut kernel = fake.0.lock().unwrap();
            // Without what sets hold: the other times, and once when it was made.
            assert_eq!((kernel.looks, kernel.ran.len()), ([122 - whole, whole], 1), "{length}");
            // Somebody empties it: that is seen at the next look at all of it.
            kernel.obey(&json!({ "flush": Hook::Ingress.object("set", "block4") }));
        }
        (121..seen).for_each(|second| drop(look(second)));
        assert_eq!(fake.0.lock().unwrap().ran.len(), 1, "{length}");
        look(seen);
        assert_eq!(fake.0.lock().unwrap().ran.len(), 2, "{length}");
    }
}
