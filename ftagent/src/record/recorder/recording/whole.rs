//! Packets that come whole, from the capture ring: for captures of operators, and ClientHellos for whoever
//! tells clients apart.

use ftagent_common::sample::flags;

use super::{Recording, place};
use crate::{bpf::captures::Captured, config::Payload, decide::Packet, record::recorder::frame::Frame};

impl Recording {
    /// Takes in a packet of the capture ring.
    pub fn take_whole(&mut self, captured: &Captured) {
        if captured.header.flags & flags::HELLO != 0 {
            self.companions.iter_mut().for_each(|companion| companion.hello(captured));
        }
        if !self.plan.full || captured.header.flags & flags::CAPTURED == 0 || self.clock.0.is_none() {
            return;
        }
        let frame = Frame::from(captured);
        let number = self.ifaces.iter().rposition(|iface| iface.slot == frame.slot);
        let (Some(number), Some(matches)) = (number, &self.plan.matches) else { return };
        let packet = Packet::decode(0, frame.bytes, frame.wire as usize, frame.class, false);
        // Another capture's.
        if !matches.matches(&packet.subject()) {
            return;
        }
        self.counts.sampled += 1;
        let full = self.bytes() >= self.plan.most_bytes;
        let Some(class) = self.counts.classes.get_mut(place(frame.class)) else { return };
        class.sampled += 1;
        if full || !self.frames.has_room() {
            class.left_out += 1;
            let lost = &mut self.counts.lost;
            (lost.quota, lost.disk) = (lost.quota + u64::from(full), lost.disk + u64::from(!full));
            return;
        }
        class.written += 1;
        self.put(&frame, number, Payload::Full);
    }
}
