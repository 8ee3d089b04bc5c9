use super::fixture::Fixture;

/// Collections that the router looks at in a few turns, of so many.
async fn looks(collections: usize, held: bool) -> u64 {
    let mut fixture = Fixture::new(collections, held);
    let _work = fixture.wait_for_work();
    // The first turn looks at all.
    fixture.step(0).await;
    let before = fixture.router.tracked.looks();
    for turn in 1..5 {
        fixture.step(turn).await;
    }
    fixture.router.tracked.looks() - before
}

#[tokio::test(start_paused = true)]
async fn turns_look_at_changed_collections_alone() {
    for held in [false, true] {
        let (few, many) = (looks(10, held).await, looks(2000, held).await);
        assert_eq!(few, many, "held: {held}");
    }
}
