//! How rules are printed: losses first, then what is widened and what else to know, then the text.

use serde::{Serialize, Serializer, ser::SerializeMap as _};

use crate::rule::{
    Action, FlowMatch,
    vendor::{BlackHole, CannotSay, Place, Platform, Text},
};

/// The widest line of a comment.
const WIDTH: usize = 100;

/// What was asked for.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum Asked {
    /// A rule.
    Rule {
        /// What it matches.
        #[serde(rename = "match", serialize_with = "as_text")]
        matches: Box<FlowMatch>,
        /// What it does.
        #[serde(serialize_with = "as_text")]
        action: Action,
    },
    /// A black hole.
    Hole {
        /// It.
        #[serde(rename = "black_hole")]
        hole: BlackHole,
    },
}

fn as_text<T: ToString, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&value.to_string())
}

impl Asked {
    fn text(&self) -> String {
        match self {
            Self::Rule { matches, action } => format!("{matches} then {action}"),
            Self::Hole { hole } => {
                let end = if hole.end == crate::rule::vendor::End::Source { "from" } else { "to" };
                format!("black hole: everything {end} {}", hole.net)
            }
        }
    }
}

/// What was asked for, and its texts.
#[derive(Debug, Serialize)]
pub struct Written {
    #[serde(flatten)]
    asked: Asked,
    /// Why there is no text for any platform.
    #[serde(skip_serializing_if = "Option::is_none")]
    refused: Option<String>,
    /// What is to be said of the rule itself.
    warnings: Vec<String>,
    platforms: Vec<One>,
}

/// A rule on a platform.
#[derive(Debug)]
struct One(&'static Platform, Result<Text, CannotSay>);

impl Serialize for One {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("platform", self.0.name)?;
        match &self.1 {
            Ok(text) => {
                map.serialize_entry("exact", &text.losses.is_empty())?;
                map.serialize_entry("losses", &text.losses)?;
                map.serialize_entry("widened", &text.widened)?;
                map.serialize_entry("traps", &text.traps)?;
                map.serialize_entry("text", &text.text)?;
                map.serialize_entry("undo", &text.undo)?;
            }
            Err(cannot) => map.serialize_entry("cannot", cannot)?,
        }
        map.end()
    }
}

impl Written {
    /// What was asked for, with its texts.
    pub fn new(asked: Asked, warnings: Vec<String>, texts: Vec<(&'static Platform, Result<Text, CannotSay>)>) -> Self {
        let platforms = texts.into_iter().map(|(platform, text)| One(platform, text)).collect();
        Self { asked, refused: None, warnings, platforms }
    }

    /// What was asked for, and why nobody should have it.
    pub fn refused(asked: Asked, why: String) -> Self {
        Self { refused: Some(why), ..Self::new(asked, Vec::new(), Vec::new()) }
    }
}

/// Everything that is printed.
#[derive(Debug)]
pub struct Printed {
    /// Rules.
    pub written: Vec<Written>,
    /// Print what takes them back.
    pub withdraw: bool,
    /// The platforms were named one by one.
    pub named: bool,
}

impl Printed {
    /// Returns what goes to standard output.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for written in &self.written {
            for one in &written.platforms {
                if !text.is_empty() {
                    text.push('\n');
                }
                text.push_str(&self.section(written, one));
            }
        }
        text
    }

    fn section(&self, written: &Written, One(platform, result): &One) -> String {
        let mut notes = vec![format!("{}: {}", platform.title, written.asked.text())];
        let (mut losses, mut traps, mut body) = (Vec::new(), Vec::new(), String::new());
        match result {
            Ok(text) => {
                losses.extend(text.losses.iter().map(|loss| format!("!!! {loss}")));
                traps.extend(text.widened.iter().map(ToString::to_string));
                traps.extend(written.warnings.iter().map(|warning| format!("WARNING: {warning}")));
                traps.extend(text.traps.iter().cloned());
                body.clone_from(if self.withdraw { &text.undo } else { &text.text });
                if self.withdraw {
                    notes.push("This takes it back.".to_owned());
                    traps.clear();
                    losses.clear();
                }
            }
            Err(cannot) => {
                let kind = if platform.place == Place::Receiver { "" } else { "!!! " };
                losses.push(format!("{kind}NO TEXT for this rule: {}", cannot.what));
                traps.push(cannot.instead.clone());
                if !self.withdraw {
                    body.push_str(&cannot.setup);
                }
            }
        }
        let mut section = String::new();
        for note in notes.iter().chain(&losses) {
            section.push_str(&platform.commented(&wrapped(note, "")));
        }
        for trap in &traps {
            section.push_str(&platform.commented(&wrapped(trap, "- ")));
        }
        section.push_str(&body);
        if let (Ok(text), false) = (result, self.withdraw) {
            section.push_str(&platform.commented("To take it back:"));
            let lines: String = text.undo.lines().map(|line| format!("  {line}\n")).collect();
            section.push_str(&platform.commented(&lines));
        }
        section
    }

    /// Returns what goes to standard error: what is missing, so that it is seen where the text goes to a file.
    pub fn alarms(&self) -> String {
        let mut alarms = String::new();
        for written in &self.written {
            let asked = written.asked.text();
            if let Some(why) = &written.refused {
                alarms.push_str(&format!("ftagent: `{asked}`: {why}\n"));
            }
            for One(platform, result) in &written.platforms {
                match result {
                    Ok(text) if !self.withdraw => {
                        for loss in &text.losses {
                            alarms.push_str(&format!("ftagent: {}: {loss}\n", platform.name));
                        }
                    }
                    Ok(_) => {}
                    Err(cannot) if self.counts(platform) => {
                        alarms.push_str(&format!("ftagent: {}: no text for `{asked}`: {cannot}\n", platform.name));
                    }
                    Err(_) => {}
                }
            }
        }
        alarms
    }

    /// Platforms that take rules from others only are silent unless they were asked for.
    fn counts(&self, platform: &Platform) -> bool {
        self.named || platform.place != Place::Receiver
    }

    /// Returns whether it went well: each rule has a text; with `strict`, everywhere, and an exact one.
    pub fn is_well(&self, strict: bool) -> bool {
        self.written.iter().all(|written| {
            let mut counted = written.platforms.iter().filter(|one| self.counts(one.0));
            let exact = |one: &One| one.1.as_ref().is_ok_and(|text| text.losses.is_empty());
            let any = written.platforms.iter().any(|one| one.1.is_ok());
            any && (!strict || counted.all(exact))
        })
    }
}

/// Breaks a text into lines, the first of which begins with a mark; lines of its own stay.
fn wrapped(text: &str, mark: &str) -> String {
    let indent = " ".repeat(mark.len());
    let mut all = String::new();
    for (number, line) in text.lines().enumerate() {
        // What is to be copied is not broken.
        if number > 0 {
            all.push_str(&format!("{indent}  {line}\n"));
            continue;
        }
        let mut width = 0;
        for (place, word) in line.split(' ').enumerate() {
            match place {
                0 => all.push_str(mark),
                _ if width + word.chars().count() > WIDTH => {
                    all.push_str(&format!("\n{indent}"));
                    width = 0;
                }
                _ => all.push(' '),
            }
            all.push_str(word);
            width += word.chars().count() + 1;
        }
        all.push('\n');
    }
    all
}
