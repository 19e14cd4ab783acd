//! Mail: plain text, one thread per incident, marked as made by a machine (RFC 3834).

use std::{fs, path::Path, time::Duration};

use lettre::{
    Message, SmtpTransport, Transport as _,
    message::{
        Mailbox, SinglePart,
        header::{ContentType, HeaderName, HeaderValue},
    },
    transport::smtp::{
        authentication::Credentials,
        client::{Certificate, CertificateStore, Tls, TlsParameters},
    },
};

use super::{Failure, Pace, Receipt, Sink};
use crate::{
    alert::{Alert, cut},
    config::alerts::{AlertSink, Mail, MailTls},
};

/// Characters of a subject: longer ones are folded again and again.
const SUBJECT: usize = 200;

/// The sink.
#[derive(Debug)]
pub struct Email {
    transport: SmtpTransport,
    from: Mailbox,
    to: Vec<Mailbox>,
}

impl Email {
    /// Nothing is connected yet.
    ///
    /// # Errors
    /// The file that cannot be used, and why.
    pub fn new(mail: &Mail, settings: &AlertSink) -> Result<Self, String> {
        let mailbox =
            |text: &String| text.parse::<Mailbox>().map_err(|error| format!("{text} is no mail address: {error}"));
        let mut builder = SmtpTransport::builder_dangerous(mail.host.as_str())
            .port(mail.port)
            .timeout(Some(settings.timeout))
            .tls(tls(mail, settings.ca_file.as_deref())?);
        if let Some((user, password)) = &mail.login {
            let password = password.read()?;
            builder = builder.credentials(Credentials::new(user.clone(), password.expose().to_owned()));
        }
        let to = mail.to.iter().map(mailbox).collect::<Result<_, _>>()?;
        Ok(Self { transport: builder.build(), from: mailbox(&mail.from)?, to })
    }
}

fn tls(mail: &Mail, ca_file: Option<&Path>) -> Result<Tls, String> {
    if mail.tls == MailTls::None {
        return Ok(Tls::None);
    }
    let mut builder = TlsParameters::builder(mail.host.clone());
    if let Some(path) = ca_file {
        let wrong = |what: String| format!("{}: {what}", path.display());
        let pem = fs::read(path).map_err(|error| wrong(format!("cannot be read ({error})")))?;
        let certificates = Certificate::from_pem(&pem).map_err(|error| wrong(format!("is not PEM ({error})")))?;
        builder = builder.certificate_store(CertificateStore::None).add_root_certificate(certificates);
    }
    let parameters = builder.build().map_err(|error| format!("{}: {error}", mail.host))?;
    Ok(match mail.tls {
        MailTls::Implicit => Tls::Wrapper(parameters),
        // Never without: who is in between would only have to hide the offer.
        _ => Tls::Required(parameters),
    })
}

impl Sink for Email {
    fn send(&mut self, alert: &Alert) -> Result<Receipt, Failure> {
        let message = message(&self.from, &self.to, alert).map_err(Failure::Never)?;
        match self.transport.send(&message) {
            Ok(response) => {
                let said: Vec<&str> = response.message().collect();
                Ok(Receipt { answer: cut(&format!("{} {}", response.code(), said.join(" ")), 200), pause: None })
            }
            Err(error) => Err(judge(&error)),
        }
    }

    fn pace(&self) -> Pace {
        Pace { per_minute: 30, burst: 5 }
    }
}

/// What a server says with 4xx is for later, with 5xx for good (RFC 5321, 4.2.1): about who we are (530 to
/// 538), or about this message.
fn judge(error: &lettre::transport::smtp::Error) -> Failure {
    let why = cut(&crate::chain(error), 300);
    let code = error.status().map(u16::from);
    match code {
        Some(530..=538 | 550 | 551 | 553 | 554) => Failure::Shut(why),
        Some(500..) => Failure::Never(why),
        _ if error.is_tls() || error.is_client() => Failure::Shut(why),
        _ => Failure::later(why),
    }
}

/// Names the topic, or a message of it, as mail does: `<…@node.ftagent>`.
fn reference(id: &str, node: &str) -> String {
    let plain = |text: &str| -> String {
        text.chars().map(|c| if c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_') { c } else { '_' }).collect()
    };
    format!("<{}@{}.ftagent>", plain(id).trim_matches('.'), plain(node).trim_matches('.'))
}

fn message(from: &Mailbox, to: &[Mailbox], alert: &Alert) -> Result<Message, String> {
    let root = reference(&alert.topic, &alert.node);
    // The first one of a topic is the root of its thread.
    let id = if alert.kind.is_begin() { root.clone() } else { reference(&alert.id, &alert.node) };
    let sent = std::time::SystemTime::UNIX_EPOCH + Duration::from_millis(u64::try_from(alert.at_ms).unwrap_or(0));
    let mut builder = Message::builder()
        .from(from.clone())
        .subject(cut(&alert.title, SUBJECT))
        .date(sent)
        .message_id(Some(id))
        .user_agent(concat!("ftagent/", env!("CARGO_PKG_VERSION")).to_owned());
    for to in to {
        builder = builder.to(to.clone());
    }
    if !alert.kind.is_begin() {
        builder = builder.in_reply_to(root.clone()).references(root);
    }
    let headers = [
        ("Auto-Submitted", "auto-generated"),
        ("X-Auto-Response-Suppress", "All"),
        ("X-Ftagent-Severity", alert.severity.as_str()),
        ("X-Ftagent-Event", alert.kind.as_str()),
    ];
    for (name, value) in headers {
        let name = HeaderName::new_from_ascii(name.to_owned()).map_err(|error| error.to_string())?;
        builder = builder.raw_header(HeaderValue::new(name, value.to_owned()));
    }
    let text = SinglePart::builder().header(ContentType::TEXT_PLAIN).body(alert.text());
    builder.singlepart(text).map_err(|error| error.to_string())
}
