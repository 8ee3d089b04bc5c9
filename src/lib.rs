//! mongoferry
