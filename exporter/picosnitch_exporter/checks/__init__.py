"""What is asked of VirusTotal, and who is told of what is new or bad.

Threads of the exporter process ask and post (`inquirer`, `webhook`); the process of the desktop's
user shows (`desktop`), fed by a small privileged one that reads nothing (`launcher`).
"""
