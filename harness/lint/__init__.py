"""What is suspicious in network policies: rules, findings, and the text, JSON and SARIF they are told in. Decides no verdict: that is `policy`."""
