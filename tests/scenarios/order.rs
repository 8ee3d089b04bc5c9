//! The comparison order, with real servers as the judges: they sort random values, refuse the equal ones and cut ranges out of them.
//!
//! The values are made of raw bytes, so that they hold what the `bson` crate would refuse. A failure prints its seed; set
//! `MONGOFERRY_SEED` to it to see the same values again.

pub mod values;

use std::collections::{BTreeMap, HashSet};

use bson::raw::{RawArrayBuf, RawDocumentBuf, cstr};
use bson::{RawBsonRef, RawDocument, rawdoc};
use mongoferry::order::{self, Key};
use mongoferry_testbed::{ReplicaSet, Version};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use self::values::Values;

const VALUES: usize = 4000;
const RANGES: usize = 300;

#[tokio::test]
async fn server_4_2_agrees_with_the_order() {
    check(Version::V4_2).await;
}

#[tokio::test]
async fn server_6_0_agrees_with_the_order() {
    check(Version::V6_0).await;
}

async fn check(version: Version) {
    let seed = match std::env::var("MONGOFERRY_SEED") {
        Ok(seed) => seed.parse().unwrap(),
        Err(_) => rand::random(),
    };
    let seed = SeedPrinter(seed);
    let mut values = Values::new(seed.0);
    let set = ReplicaSet::builder(version).start().await.unwrap();
    let mut server = Server(TcpStream::connect(set.member_address(0)).await.unwrap());
    server.run(rawdoc! { "create": "plain" }).await;
    check_collection(&mut server, "plain", &mut values).await;
    if version >= Version::V6_0 {
        // The record ids of a clustered collection are made of `_id` in the same way as the keys of an index.
        server
            .run(rawdoc! { "create": "clustered", "clusteredIndex": { "key": { "_id": 1 }, "unique": true } })
            .await;
        check_collection(&mut server, "clustered", &mut values).await;
    }
}

async fn check_collection(server: &mut Server, collection: &str, values: &mut Values) {
    let keys: Vec<Key> = (0..VALUES).map(|_| values.id()).collect();

    // The server takes the first of several equal values and refuses the rest.
    let mut ours: BTreeMap<Key, usize> = BTreeMap::new();
    for (number, key) in keys.iter().enumerate() {
        ours.entry(key.clone()).or_insert(number);
    }
    assert!(
        ours.len() > VALUES / 4 && ours.len() < VALUES * 99 / 100,
        "too many or too few equal values"
    );
    check_other_views(&keys, &ours);
    insert(server, collection, &keys).await;
    let theirs = find(server, collection, None).await.unwrap();
    let mut accepted = theirs.clone();
    accepted.sort_unstable();
    let mut expected: Vec<usize> = ours.values().copied().collect();
    expected.sort_unstable();
    assert_same(&accepted, &expected, "the values that the server took", &keys);
    let expected: Vec<usize> = ours.values().copied().collect();
    assert_same(&theirs, &expected, "the order", &keys);

    let mut refused = 0;
    for _ in 0..RANGES {
        let mut bounds = [values.bound(&keys), values.bound(&keys)];
        bounds.sort();
        let [lower, upper] = bounds;
        if lower == upper {
            continue;
        }
        let theirs = match find(server, collection, Some((&lower, &upper))).await {
            Ok(theirs) => theirs,
            Err(BadBounds) => {
                // Before it looks into the index, the server compares the bounds as queries compare values: by the names in arrays
                // and by all of a namespace, which its index keys leave out.
                let shown = format!("{lower:?} {upper:?}");
                assert!(
                    shown.contains("$dbPointer") || shown.contains('['),
                    "the server refuses {shown}"
                );
                refused += 1;
                continue;
            }
        };
        let expected: Vec<usize> = ours
            .range::<Key, _>(&lower..&upper)
            .map(|(_, number)| *number)
            .collect();
        assert_same(
            &theirs,
            &expected,
            &format!("the range from {lower:?} to {upper:?}"),
            &keys,
        );
    }
    assert!(refused < RANGES / 20, "the server refused {refused} ranges");
}

/// The hash and the functions on `RawBsonRef` agree with the order of the keys.
fn check_other_views(keys: &[Key], ours: &BTreeMap<Key, usize>) {
    let mut hashes = HashSet::new();
    for key in keys {
        let (first, _) = ours.get_key_value(key).unwrap();
        assert_eq!(key.stable_hash(), first.stable_hash(), "{key:?} and {first:?}");
        hashes.insert(key.stable_hash());
    }
    assert_eq!(hashes.len(), ours.len(), "different values have the same hash");

    let decoded: Vec<(&Key, RawBsonRef)> = keys
        .iter()
        .filter_map(|key| Some((key, key.to_bson_ref().ok()?)))
        .collect();
    assert!(decoded.len() > keys.len() / 2);
    for pair in decoded.windows(2) {
        let [(left, left_value), (right, right_value)] = [pair[0], pair[1]];
        assert_eq!(
            order::compare(left_value, right_value),
            left.cmp(right),
            "{left:?} and {right:?}"
        );
        assert_eq!(order::hash_key(left_value), left.stable_hash(), "{left:?}");
    }
}

#[track_caller]
fn assert_same(server: &[usize], ours: &[usize], what: &str, keys: &[Key]) {
    let Some(at) = (0..server.len().max(ours.len())).find(|at| server.get(*at) != ours.get(*at)) else {
        return;
    };
    let show = |numbers: &[usize]| -> Vec<String> {
        let shown = numbers.iter().skip(at.saturating_sub(1)).take(4);
        shown
            .map(|number| format!("{number}: {:?} {:02x?}", keys[*number], keys[*number].as_raw().bytes()))
            .collect()
    };
    panic!(
        "{what} differs at {at}:\nserver {:#?}\nours   {:#?}",
        show(server),
        show(ours)
    );
}

/// Inserts each key as the `_id` of a document that also holds the key's place.
async fn insert(server: &mut Server, collection: &str, keys: &[Key]) {
    let numbered: Vec<(usize, &Key)> = keys.iter().enumerate().collect();
    for batch in numbered.chunks(1000) {
        let mut documents = RawArrayBuf::new();
        for (number, key) in batch {
            documents.push(numbered_document(key, *number));
        }
        let reply = server
            .run(rawdoc! { "insert": collection, "ordered": false, "documents": documents })
            .await;
        for error in reply.get_array("writeErrors").into_iter().flatten() {
            let error = error.unwrap().as_document().unwrap();
            let key = batch[error.get_i32("index").unwrap() as usize].1;
            // Clustered collections often fail to say which value is there already, with codes of all sorts.
            let duplicate = error.get_i32("code").unwrap() == 11000 || collection == "clustered";
            assert!(duplicate, "{key:?}: {:?}", error.get_str("errmsg"));
        }
    }
}

fn numbered_document(key: &Key, number: usize) -> RawDocumentBuf {
    let mut bytes = key.document_bytes().to_vec();
    bytes.pop();
    bytes.extend(b"\x10n\0");
    bytes.extend((number as i32).to_le_bytes());
    bytes.push(0);
    let length = bytes.len() as u32;
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    RawDocumentBuf::from_bytes(bytes).unwrap()
}

/// The places of the documents in the order of the `_id` index, of all or of those at and above `lower` and below `upper`.
async fn find(server: &mut Server, collection: &str, range: Option<(&Key, &Key)>) -> Result<Vec<usize>, BadBounds> {
    let mut command = rawdoc! { "find": collection, "hint": { "_id": 1 }, "sort": { "_id": 1 }, "batchSize": 100_000 };
    if let Some((lower, upper)) = range {
        command.append(cstr!("min"), RawDocument::from_bytes(lower.document_bytes()).unwrap());
        command.append(cstr!("max"), RawDocument::from_bytes(upper.document_bytes()).unwrap());
    }
    let reply = server.reply(command).await;
    if reply
        .get_str("errmsg")
        // The second is what a clustered collection says.
        .is_ok_and(|message| message.contains("does not come before") || message.contains("must be greater than min"))
    {
        return Err(BadBounds);
    }
    assert_ok(&reply);
    let cursor = reply.get_document("cursor").unwrap();
    assert_eq!(cursor.get_i64("id").unwrap(), 0, "the reply holds everything");
    let documents = cursor.get_array("firstBatch").unwrap().into_iter();
    let numbers = documents.map(|document| document.unwrap().as_document().unwrap().get_i32("n").unwrap() as usize);
    Ok(numbers.collect())
}

/// The server takes `min` to be `max` or greater.
#[derive(Debug)]
struct BadBounds;

#[track_caller]
fn assert_ok(reply: &RawDocument) {
    assert_eq!(reply.get_f64("ok").unwrap(), 1.0, "{:?}", reply.get_str("errmsg"));
}

/// A connection on which only bytes are exchanged. The driver decodes what the server says of refused documents, and fails on some
/// of them; nor does it talk to 4.2.
struct Server(TcpStream);

impl Server {
    async fn run(&mut self, command: RawDocumentBuf) -> RawDocumentBuf {
        let reply = self.reply(command).await;
        assert_ok(&reply);
        reply
    }

    async fn reply(&mut self, mut command: RawDocumentBuf) -> RawDocumentBuf {
        const OP_MSG: i32 = 2013;
        command.append(cstr!("$db"), "order");
        let body = command.as_bytes();
        // The header, no flags, and one section of kind 0.
        let mut message: Vec<u8> = [21 + body.len() as i32, 1, 0, OP_MSG, 0].map(i32::to_le_bytes).concat();
        message.push(0);
        message.extend(body);
        self.0.write_all(&message).await.unwrap();
        let length = self.0.read_i32_le().await.unwrap() as usize;
        let mut reply = vec![0; length - 4];
        self.0.read_exact(&mut reply).await.unwrap();
        RawDocumentBuf::from_bytes(reply.split_off(17)).unwrap()
    }
}

/// Says how to see the same values again when the test that holds it panics.
struct SeedPrinter(u64);

impl Drop for SeedPrinter {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("to see this again: MONGOFERRY_SEED={}", self.0);
        }
    }
}
