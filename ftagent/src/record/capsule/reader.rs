//! Reads a journal, up to its end or to the last frame that is whole.

use std::{
    collections::VecDeque,
    io::{self, BufRead, Read as _},
};

use zstd::stream::read::Decoder;

use super::{
    row::{Classes, End, FORMAT, Head, Message, TickRow},
    state::{self, StateError},
};
use crate::{
    decide::{Decider, STATE_VERSION, input::Input},
    record::tape::TickRecord,
};

/// A frame holds less than this: a core written down, and little else.
const MOST_BYTES: u64 = 320 << 20;

/// Something that reached the core.
#[derive(Debug)]
pub enum Step {
    /// A tick, and what was decided in it.
    Tick(Box<TickRecord>),
    /// What somebody did to the core before the next tick.
    Input(Box<Input>),
    /// Facts are missing before this: the core as it was after them.
    Missed(Result<Box<Decider>, StateError>),
}

/// A journal that is being read.
#[derive(Debug)]
pub struct Journey<R> {
    input: R,
    classes: Classes,
    waiting: VecDeque<Message>,
    frames: u64,
    ended: Option<Ended>,
}

/// How a journal ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// With its incident.
    Whole,
    /// Before, on purpose: why.
    Early(String),
    /// It is cut short, or damaged from there on: what is wrong. What stands before is good.
    Broken(String),
}

impl<R: BufRead> Journey<R> {
    /// Opens a journal.
    ///
    /// # Errors
    /// Where not even its beginning can be used, in words.
    pub fn new(input: R) -> Result<Self, String> {
        let mut journey = Self { input, classes: Classes::default(), waiting: VecDeque::new(), frames: 0, ended: None };
        journey.next_frame();
        match (journey.waiting.pop_front(), &journey.ended) {
            (Some(Message::Head(head)), _) => journey.accept(&head)?,
            (None, Some(Ended::Broken(what))) => return Err(format!("the ticks cannot be read: {what}")),
            _ => return Err("the ticks do not begin as a journal does".to_owned()),
        }
        Ok(journey)
    }

    fn accept(&mut self, head: &Head) -> Result<(), String> {
        if head.format != FORMAT {
            let format = &head.format;
            return Err(format!("the ticks are of format `{format}`, and this program reads `{FORMAT}`"));
        }
        self.classes = Classes::of(head);
        Ok(())
    }

    /// Returns how it ended, once [`Self::step`] has returned nothing.
    pub fn ended(&self) -> Ended {
        self.ended.clone().unwrap_or(Ended::Whole)
    }

    /// Returns what comes next; `None` at the end.
    ///
    /// # Errors
    /// Where a whole frame says what makes no sense, in words.
    pub fn step(&mut self) -> Result<Option<Step>, String> {
        loop {
            match self.waiting.pop_front() {
                Some(Message::Tick(row)) => return self.tick(*row).map(Some),
                Some(Message::Input(input)) => return Ok(Some(Step::Input(input))),
                Some(Message::Missed(core)) => return Ok(Some(Step::Missed(state::decode(core.0.as_slice())))),
                Some(Message::End(End { why })) => {
                    self.ended = Some(why.map_or(Ended::Whole, Ended::Early));
                    return Ok(None);
                }
                Some(Message::Head(_)) => return Err("the ticks begin anew in the middle".to_owned()),
                None if self.ended.is_some() => return Ok(None),
                None => self.next_frame(),
            }
        }
    }

    fn tick(&self, row: TickRow) -> Result<Step, String> {
        Ok(Step::Tick(Box::new(row.unpack(&self.classes)?)))
    }

    fn next_frame(&mut self) {
        let read = self.read_frame();
        self.frames += 1;
        let broken = |what: String| Some(Ended::Broken(what));
        match read {
            Ok(Some(messages)) => self.waiting = messages,
            Ok(None) => self.ended = broken("it ends without saying so, as after a crash".to_owned()),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                self.ended = broken(format!("it is cut short in frame {}", self.frames));
            }
            Err(error) => self.ended = broken(format!("frame {} is damaged: {error}", self.frames)),
        }
    }

    /// Reads a whole frame; `None` where there is none.
    fn read_frame(&mut self) -> io::Result<Option<VecDeque<Message>>> {
        if self.input.fill_buf()?.is_empty() {
            return Ok(None);
        }
        let mut raw = Vec::new();
        Decoder::with_buffer(&mut self.input)?.single_frame().take(MOST_BYTES + 1).read_to_end(&mut raw)?;
        if raw.len() as u64 > MOST_BYTES {
            return Err(io::Error::other(format!("it is larger than {MOST_BYTES} bytes")));
        }
        let mut messages = VecDeque::new();
        let mut rest = raw.as_slice();
        while let Some((length, after)) = rest.split_first_chunk::<4>() {
            let length = u32::from_le_bytes(*length) as usize;
            let (message, after) =
                after.split_at_checked(length).ok_or_else(|| io::Error::other("a message is cut short"))?;
            messages.push_back(rmp_serde::from_slice(message).map_err(|error| foreign(&error))?);
            rest = after;
        }
        if rest.is_empty() { Ok(Some(messages)) } else { Err(io::Error::other("a message is cut short")) }
    }
}

fn foreign(error: &rmp_serde::decode::Error) -> io::Error {
    io::Error::other(format!("a message makes no sense to this program (states of version {STATE_VERSION}): {error}"))
}
