//! What people do instead, each written as well as it can be: how many units are sold in a second.
