"""What several rooms share to reach one kind of server. Below the rooms, which never import each other."""
