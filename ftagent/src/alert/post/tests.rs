//! What is handed in while there is no room.

use super::*;
use crate::alert::{
    desk::late::{over, telling},
    message::tests::flood,
};

#[test]
fn what_became_of_what_is_upstream_is_told_although_there_was_no_room_for_it() {
    let (receiver, post, _state) = telling("1h");
    receiver.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    // Whoever makes messages is held up, until nothing more goes in.
    let held = post.shared.lock();
    while post.upstream("another", Vec::new()) {}
    post.after(Arc::new(over(&flood())), "rtbh: taken back".to_owned());
    drop(held);
    // It is looked at every second.
    let mut buffer = [0; 4096];
    let told = (0..200).find_map(|_| {
        post.look(Vec::new(), None);
        receiver.recv(&mut buffer).ok()
    });
    let told = String::from_utf8_lossy(&buffer[..told.expect("nothing was told")]);
    assert!(told.contains("rtbh: taken back; nothing is left upstream"), "{told}");
    post.stop();
}
