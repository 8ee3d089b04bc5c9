use std::time::Duration;

use tokio::time::Instant;

use super::*;

fn at(seconds: u64) -> Position {
    Position {
        time: 1_000 + u32::try_from(seconds).unwrap(),
        increment: 0,
        term: 1,
    }
}

/// Follows a set whose majority is at the position that `majority` returns for the seconds since the start.
async fn follow(majority: impl Fn(u64) -> u64) -> (Result<Position>, Duration) {
    let began = Instant::now();
    let written = at(100);
    let found = followed(|| {
        let majority = at(majority(began.elapsed().as_secs()));
        async move {
            Ok(Standing {
                newest: written,
                majority,
                needs_replay_flag: false,
            })
        }
    })
    .await;
    (found, began.elapsed())
}

#[tokio::test(start_paused = true)]
async fn a_majority_that_advances_is_waited_for() {
    // The majority advances by one second of history every three seconds.
    let (found, took) = follow(|seconds| seconds / 3).await;
    assert_eq!(found.unwrap(), at(100));
    assert!(took >= Duration::from_secs(300), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_majority_that_stands_still_is_given_up() {
    let (found, took) = follow(|seconds| seconds.min(60)).await;
    let error = found.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Connection, "{error}");
    let patience = RetryPolicy::SERVER.patience;
    let last = Duration::from_secs(60);
    assert!(took >= last + patience && took < last + patience * 2, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_wait_for_a_majority_ends_with_a_final_error() {
    let began = Instant::now();
    let mut asked = 0;
    let majority = || {
        asked += 1;
        let answer = match asked {
            1 | 2 => Ok(at(50)),
            _ => Err(Error::new(ErrorKind::Connection, "test", "the primary has changed")),
        };
        std::future::ready(answer)
    };
    let found = until_majority(RetryPolicy::SERVER, at(100), majority, |_| true).await;
    assert_eq!(found.unwrap_err().operation(), "test");
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    assert_eq!(asked, 3);
}
