//! Captures that go are missed by somebody: it is said, and written down.

use super::*;
use crate::record::audit::{self, AuditLog, read};

#[test]
fn what_goes_for_want_of_room_is_said_and_the_latest_stays() {
    let mut world = World::new("pre_roll = \"1s\"");
    let rules = crate::config::Audit { append_only: false, ..Config::default().audit };
    world.recorder.log = AuditLog::start(world.dir.path(), &rules, || {}).unwrap();
    world.recorder.settings.min_free = u64::MAX;
    world.run(20);
    for id in ["a", "b"] {
        world.open(id);
        world.run(10);
        world.close(id);
        assert!(world.root().join(id).exists(), "{id} is the latest");
    }
    assert!(!world.root().join("a").exists());
    let trouble = |world: &World| world.recorder.status.lock().unwrap().trouble.clone();
    assert!(trouble(&world).is_some_and(|trouble| trouble.contains("a last") && trouble.contains("capture.min_free")));
    // It is old news a day later.
    world.recorder.beats += SAID;
    world.recorder.publish();
    assert_eq!(trouble(&world), None);

    world.recorder.log.stop();
    let mut reader = read::Reader::new(&audit::dir(world.dir.path()), read::Wanted::default());
    let lines: Vec<_> = reader.next(usize::MAX).unwrap().into_iter().map(|(_, line)| line).collect();
    let [removed] = lines.as_slice() else { panic!("{lines:?}") };
    assert_eq!((removed.action.as_str(), removed.subject.as_str()), ("capture.remove", "a"));
    assert_eq!(removed.actor.as_ref().map(|actor| actor.kind), Some(audit::ActorKind::Daemon));
    assert!(removed.reason.contains("capture.min_free"), "{}", removed.reason);
}
