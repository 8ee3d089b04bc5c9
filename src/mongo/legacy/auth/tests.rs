use std::collections::VecDeque;

use super::*;
use crate::mongo::client;
use crate::mongo::legacy::{CommandError, server_error};

/// Gives prepared replies, and keeps the commands.
struct Script {
    replies: VecDeque<RawDocumentBuf>,
    commands: Vec<(String, RawDocumentBuf)>,
}

impl Script {
    fn new(replies: impl IntoIterator<Item = RawDocumentBuf>) -> Self {
        Self {
            replies: replies.into_iter().collect(),
            commands: Vec::new(),
        }
    }
}

impl Commands for Script {
    async fn run(&mut self, database: &str, command: &RawDocument) -> Result<RawDocumentBuf> {
        self.commands.push((database.to_owned(), command.to_owned()));
        let reply = self.replies.pop_front().unwrap();
        match CommandError::of_reply(&reply) {
            None => Ok(reply),
            Some(said) => Err(server_error(OPERATION, &said, 2)),
        }
    }
}

fn credential(mechanism: Option<LegacyMechanism>) -> LegacyCredential {
    LegacyCredential {
        user: Some("user".to_owned()),
        password: Some("pencil".to_owned()),
        source: "admin".to_owned(),
        mechanism,
    }
}

fn server(wire_version: i32) -> IsMaster {
    IsMaster::parse(rawdoc! { "maxWireVersion": wire_version, "ok": 1 }).unwrap()
}

async fn run(script: &mut Script, credential: &LegacyCredential, server: &IsMaster) -> Result<()> {
    log_in(script, credential, server, &KeyCache::default()).await
}

#[tokio::test]
async fn mongodb_cr_answers_the_challenge() {
    let challenge = rawdoc! { "nonce": "2375531c32080ae8", "ok": 1.0 };
    let mut script = Script::new([challenge.clone(), rawdoc! { "ok": 1.0 }]);
    run(&mut script, &credential(None), &server(2)).await.unwrap();
    let expected = rawdoc! {
        "authenticate": 1, "user": "user", "nonce": "2375531c32080ae8", "key": "21742f26431831d5cfca035a08c5bdf6",
    };
    assert_eq!(script.commands[0], ("admin".to_owned(), rawdoc! { "getnonce": 1 }));
    assert_eq!(script.commands[1], ("admin".to_owned(), expected));

    let refusal = rawdoc! { "ok": 0.0, "errmsg": "auth failed", "code": 18 };
    let mut script = Script::new([challenge, refusal]);
    let error = run(&mut script, &credential(None), &server(2)).await.unwrap_err();
    assert_eq!(
        (error.kind(), client::code(&error)),
        (ErrorKind::Unauthorized, Some(18))
    );
    assert!(!error.is_retryable() && !format!("{error:?} {error:#}").contains("pencil"));
}

#[test]
fn the_best_mechanism_that_the_server_has_is_taken() {
    let offering = |names: &[&str]| {
        let names: bson::raw::RawArrayBuf = names.iter().copied().collect();
        IsMaster::parse(rawdoc! { "maxWireVersion": 7, "saslSupportedMechs": names }).unwrap()
    };
    for (server, mechanism) in [
        (server(2), LegacyMechanism::Cr),
        (server(3), LegacyMechanism::ScramSha1),
        (server(7), LegacyMechanism::ScramSha1),
        (offering(&["SCRAM-SHA-1"]), LegacyMechanism::ScramSha1),
        (
            offering(&["SCRAM-SHA-1", "SCRAM-SHA-256"]),
            LegacyMechanism::ScramSha256,
        ),
    ] {
        assert_eq!(
            super::mechanism(&credential(None), &server),
            mechanism,
            "{:?}",
            server.raw
        );
        let given = credential(Some(LegacyMechanism::Cr));
        assert_eq!(super::mechanism(&given, &server), LegacyMechanism::Cr);
    }
    assert_eq!(negotiated_user(&credential(None)).as_deref(), Some("admin.user"));
    assert_eq!(negotiated_user(&credential(Some(LegacyMechanism::Cr))), None);
}

#[tokio::test]
async fn old_servers_need_the_name_in_the_certificate() {
    let nameless = LegacyCredential {
        source: "$external".to_owned(),
        mechanism: Some(LegacyMechanism::X509),
        ..LegacyCredential::default()
    };
    let mut script = Script::new([]);
    let error = run(&mut script, &nameless, &server(4)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfiguration);
    let mut script = Script::new([rawdoc! { "ok": 1 }]);
    run(&mut script, &nameless, &server(5)).await.unwrap();
    assert_eq!(
        script.commands[0],
        (
            "$external".to_owned(),
            rawdoc! { "authenticate": 1, "mechanism": "MONGODB-X509" }
        )
    );
}

#[tokio::test]
async fn a_login_of_a_server_without_proof_is_refused() {
    let reply =
        |text: &str| rawdoc! { "conversationId": 1, "done": true, "payload": payload(text.to_owned()), "ok": 1 };
    // The server does not answer with the client's nonce, as a recording of another login would.
    let recorded = "r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,s=QSXCR+Q6sek8bf92,i=4096";
    let mut script = Script::new([reply(recorded)]);
    let error = run(&mut script, &credential(None), &server(3)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Protocol);
    assert_eq!(script.commands.len(), 1);
}

#[test]
fn credentials_that_cannot_work_are_refused_without_a_server() {
    for wrong in [
        credential(Some(LegacyMechanism::Other("GSSAPI".to_owned()))),
        LegacyCredential {
            password: None,
            ..credential(None)
        },
        LegacyCredential {
            user: None,
            ..credential(Some(LegacyMechanism::ScramSha1))
        },
    ] {
        assert_eq!(check(&wrong).unwrap_err().kind(), ErrorKind::InvalidConfiguration);
    }
    check(&credential(None)).unwrap();
    assert!(prepared(Hash::Sha256, "user", "\u{7}").is_err());
    assert_eq!(prepared(Hash::Sha256, "user", "I\u{AD}X").unwrap(), "IX");
    assert_eq!(
        prepared(Hash::Sha1, "user", "pencil").unwrap(),
        "1c33006ec1ffd90f9cadcbcc0e118200"
    );
}
