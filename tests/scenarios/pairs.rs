//! Tests of pairs of versions.

/// Declares one test for each pair of a source's and a target's version, which calls the function named first with both.
macro_rules! pairs {
    ($function:ident; $($(#[$attribute:meta])* $test:ident: $from:ident => $to:ident),* $(,)?) => {
        $(
            $(#[$attribute])*
            #[tokio::test(flavor = "multi_thread")]
            async fn $test() {
                $function(mongoferry_testbed::Version::$from, mongoferry_testbed::Version::$to).await;
            }
        )*
    };
}
pub(super) use pairs;
