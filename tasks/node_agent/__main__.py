from tasks.node_agent.cli import main

if __name__ == "__main__":
    main()
